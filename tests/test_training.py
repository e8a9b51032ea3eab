"""The only training loop: it learns, it repeats itself to the bit, and it leaves its argument alone."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rescompress import data, models
from rescompress.context import Context
from rescompress.errors import GateFailed, RecipeError
from rescompress.fakequant import sites_of
from rescompress.training import Schedule, fit
from tests.networks import context, quantized, same, snapshot, stock

BRIEF = Schedule(epochs=2, batch=16, augment="none")


@pytest.fixture(scope="module")
def fresh() -> nn.Module:
    return models.build(models.spec("cifar", "resnet8", 10))


@pytest.fixture(scope="module")
def fitted(fresh: nn.Module) -> nn.Module:
    return fit(fresh, context(), schedule=BRIEF)


def loss_of(model: nn.Module, ctx: Context) -> float:
    ((images, labels),) = data.batches(ctx.images("test").train, models.spec_of(model).preprocessing, 1000)
    return float(F.cross_entropy(models.predict(model, [images]), labels))


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_the_loss_falls() -> None:
    model = stock("cifar", "resnet8")
    longer = fit(model, context(), schedule=replace(BRIEF, epochs=8))
    assert loss_of(longer, context()) < 0.5 * loss_of(model, context())


def test_equal_seeds_give_equal_bits(fresh: nn.Module, fitted: nn.Module) -> None:
    assert equal(fit(fresh, context(), schedule=BRIEF), fitted)


def test_another_seed_gives_other_weights(fresh: nn.Module, fitted: nn.Module) -> None:
    assert not equal(fit(fresh, context(seed=1), schedule=BRIEF), fitted)


def test_neither_argument_nor_global_generator_is_touched(fresh: nn.Module) -> None:
    model = copy.deepcopy(fresh)
    before, state = snapshot(model), torch.get_rng_state()
    made = fit(model, context(), schedule=replace(BRIEF, epochs=1, augment="shift+mirror"))
    assert same(before, snapshot(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert models.spec_of(made) == models.spec_of(model)
    assert not any(module.training for module in made.modules())
    assert all(p.is_contiguous() for p in made.parameters())


def test_smoothed_labels_make_less_sure(fresh: nn.Module) -> None:
    sharp, smooth = (
        fit(fresh, context(), schedule=replace(BRIEF, epochs=4), label_smoothing=amount) for amount in (0.0, 0.8)
    )
    images = data.normalize(context().images("test").train.read(range(32)), models.spec_of(fresh).preprocessing)
    sure = [float(models.predict(model, [images]).softmax(1).amax(1).mean()) for model in (sharp, smooth)]
    assert sure[1] < sure[0] - 0.1


def test_a_loss_that_is_no_number_fails_the_gate(fresh: nn.Module) -> None:
    with pytest.raises(GateFailed, match="loss of fit is no longer a number") as failure:
        fit(fresh, context(), schedule=replace(BRIEF, lr=1e20, warmup=0.0))
    assert failure.value.exit_code == 5


def test_training_needs_images(fresh: nn.Module) -> None:
    with pytest.raises(RecipeError, match="fit needs images"):
        fit(fresh, Context(), schedule=BRIEF)


@pytest.mark.parametrize(
    "knobs",
    [
        *({"schedule": {name: value}} for name, value in [("epochs", 0), ("batch", 1), ("lr", 0), ("momentum", 1)]),
        *({"schedule": {name: value}} for name, value in [("warmup", 1), ("augment", "cutmix"), ("epoch", 3)]),
        {"label_smoothing": 1.0},
    ],
)
def test_a_knob_out_of_range_is_refused(fresh: nn.Module, knobs: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        fit(fresh, context(), **knobs)  # type: ignore[arg-type]


def test_a_quantized_network_trains_without_a_warning() -> None:
    model = quantized("cifar", "resnet8")
    made = fit(model, context(), schedule=replace(BRIEF, epochs=1, lr=1e-4))
    assert not equal(made, model)
    assert sites_of(made) == sites_of(model)


def test_a_last_batch_of_one_image_is_survived() -> None:
    """Where a network ends in one pixel per channel, BatchNorm has nothing to average over in such a batch."""
    model = stock("torchvision", "resnet18", 3, side=32)
    made = fit(model, context(3, count=5), schedule=Schedule(epochs=1, batch=4, augment="none", lr=1e-4))
    assert all(p.isfinite().all() for p in made.parameters())


def test_biases_and_norms_are_spared_the_weight_decay(fresh: nn.Module) -> None:
    """The gradients are the same in one step, so what differs is what decays."""
    once = replace(BRIEF, epochs=1, batch=32, warmup=0.0)
    light, heavy = (
        dict(fit(fresh, context(), schedule=replace(once, weight_decay=decay)).named_parameters())
        for decay in (0.0, 1.0)
    )
    decayed = {name for name in light if not torch.equal(light[name], heavy[name])}
    assert decayed == {name for name, parameter in fresh.named_parameters() if parameter.dim() > 1}


@given(st.integers(1, 500), st.floats(0, 0.99))
def test_the_rate_rises_then_falls(steps: int, warmup: float) -> None:
    rates = [_rate(step, steps, warmup) for step in range(steps)]
    peak = rates.index(max(rates))
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert peak <= max(1, steps * warmup)


@pytest.mark.parametrize("kind", ["shift", "shift+mirror"])
def test_an_augmented_image_is_a_shifted_one(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=generator)
    reach = 2
    padded = F.pad(images, (reach,) * 4)
    shifted = [padded[:, :, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    candidates = torch.stack(shifted + [image.flip(3) for image in shifted])
    made = _augment(images, kind, generator)
    found = (candidates == made).flatten(2).all(2)
    assert found.any(0).all(), "an image is neither a shift nor a mirror image of its source"
    assert found.any(1)[:25].sum() > 10
    assert bool(found[25:].any()) == (kind == "shift+mirror")


def test_no_augmentation_gives_the_images_themselves() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert _augment(images, "none", torch.Generator()) is images
