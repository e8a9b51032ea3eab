"""Fine-tuning: it learns, it repeats itself to the bit, and it leaves its argument alone."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rescompress import data, models, progress
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
        *({"schedule": {name: value}} for name, value in [("warmup", 1), ("augment", "blur"), ("epoch", 3)]),
        *({"schedule": {name: value}} for name, value in [("ema", 1), ("amp", "int8"), ("randaugment", 31)]),
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


@pytest.mark.parametrize(
    "knobs",
    [
        {"optimizer": "adamw", "lr": 1e-3},
        {"ema": 0.5, "clip": 1.0},
        {"amp": "bf16"},
        {"amp": "fp16"},
        {"randaugment": 9},
        {"mixup": 0.2, "cutmix": 1.0},
        {"patience": 1},
    ],
    ids=str,
)
def test_every_way_to_train_learns_something_and_repeats_itself(fresh: nn.Module, knobs: dict[str, Any]) -> None:
    schedule = replace(BRIEF, lr=0.02, augment="none")
    schedule = replace(schedule, **knobs)
    made = fit(fresh, context(), schedule=schedule)
    assert loss_of(made, context()) < loss_of(fresh, context())
    assert equal(fit(fresh, context(), schedule=schedule), made)
    assert all(parameter.dtype == torch.float32 for parameter in made.parameters())


def test_the_moving_average_is_that_of_all_steps(fresh: nn.Module) -> None:
    once = replace(BRIEF, epochs=1, batch=16, lr=1e-3)  # two steps
    states = [fit(fresh, context(), schedule=replace(once, ema=decay)).state_dict() for decay in (0.0, 0.9, 0.8)]
    start, name = fresh.state_dict(), "linear.weight"
    # mean = d^2 w0 + d (1 - d) w1 + (1 - d) w2: two decays tell w1, by which both must agree
    seen = [
        (states[i][name] - d**2 * start[name] - (1 - d) * states[0][name]) / (d * (1 - d))
        for i, d in ((1, 0.9), (2, 0.8))
    ]
    assert torch.allclose(seen[0], seen[1], atol=1e-4)
    assert not torch.allclose(seen[0], start[name], atol=1e-6)


def test_clipped_gradients_move_less(fresh: nn.Module) -> None:
    once = replace(BRIEF, epochs=1, batch=32, lr=0.1, warmup=0.0, weight_decay=0.0, momentum=0.0)
    before = dict(fresh.named_parameters())
    moved = {}
    for clip in (0.0, 0.01):
        made = dict(fit(fresh, context(), schedule=replace(once, clip=clip)).named_parameters())
        moved[clip] = sum(float((made[name] - before[name]).detach().square().sum()) for name in before) ** 0.5
    assert moved[0.01] == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert moved[0.0] > 2 * moved[0.01]


def test_patience_ends_early_and_gives_back_the_best_epoch(fresh: nn.Module) -> None:
    with progress.gathered() as notes:
        made = fit(fresh, context(), schedule=replace(BRIEF, epochs=50, lr=0.02, patience=2))
    assert any("nothing gets better" in note for note in notes)
    split = context().images("test").calibration
    images = data.normalize(split.read(range(len(split))), models.spec_of(fresh).preprocessing)
    assert (models.predict(made, [images]).argmax(1) == split.labels).float().mean() > 0.9
