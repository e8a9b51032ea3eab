"""Learned rounding: on the grid, up or down only, near the best of all roundings, and no worse than nearest."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from rescompress import backends, checkpoint, data, fakequant, graph, metrics, models
from rescompress.context import Context
from rescompress.fusion import fuse
from rescompress.placement import place
from rescompress.quantization.ranges import set_activation, set_weights
from rescompress.quantization.rounding import AdaRound, adaround
from tests.networks import custom

SCHEME = backends.get("onnxruntime").SCHEME
QUICK = AdaRound(steps=60, images=64, batch=8, lr=0.05)


class Net(nn.Module):
    def __init__(self, width: int, groups: int, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1, bias=bias)
        self.second = nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=bias)
        self.head = nn.Linear(width, 3, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.first(images))
        return self.head(torch.relu(self.second(x) + x).mean((2, 3)))


class OneLayer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, (1, 3), bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


def with_quantizers(model: nn.Module, bits: int, per_channel: bool = True, acts: bool = False) -> fx.GraphModule:
    scheme = replace(SCHEME, per_channel_weights=per_channel)
    traced = graph.capture(model, models.spec_of(model).input_shape)
    precision = "int8" if acts else ("w4" if bits == 4 else "w8")
    fakequant.insert(traced, place(traced, scheme, precision=precision, weight_bits=4 if bits == 4 else 8))
    for site in fakequant.sites_of(traced):
        if not site.is_weight:
            set_activation(fakequant.quantizer_of(traced, site), -4.0, 4.0)
    set_weights(traced, "mse")
    return traced


def made(seed: int, build: Callable[[], nn.Module], *arguments: object, **more: bool) -> fx.GraphModule:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return with_quantizers(custom(build()), *arguments, **more)  # type: ignore[arg-type]


def correlated(count: int = 64, side: int = 8) -> list[Tensor]:
    """Images whose neighbours are much alike, as in nature: only then do roundings depend on each other."""
    noise = torch.randn(count, 3, side + 4, side + 4, generator=torch.Generator().manual_seed(3))
    smooth = nn.functional.avg_pool2d(noise + 0.5 * noise.mean(1, keepdim=True), 5, 1) * 5
    return list((smooth + 1).split(16))


def weights_of(traced: fx.GraphModule) -> dict[str, tuple[Tensor, fakequant.FakeQuantize]]:
    values = graph.values(traced)
    return {
        site.value: (
            graph.tensor_of(traced, values[site.value]).detach().clone(),
            fakequant.quantizer_of(traced, site),
        )
        for site in fakequant.sites_of(traced)
        if site.is_weight
    }


@settings(max_examples=5)
@example(seed=68, groups=1, bits=4, per_channel=False, acts=False, unit="layer")  # nearest is no worse anywhere
@example(seed=0, groups=1, bits=4, per_channel=False, acts=False, unit="layer")
@example(seed=85, groups=2, bits=8, per_channel=True, acts=True, unit="layer")  # activations' rounding hides the gain
@given(
    seed=st.integers(0, 99),
    groups=st.sampled_from([1, 2, 4]),
    bits=st.sampled_from([4, 8]),
    per_channel=st.booleans(),
    acts=st.booleans(),
    unit=st.sampled_from(["layer", "block"]),
)
def test_weights_lie_on_the_grid_beside_where_they_were(
    seed: int, groups: int, bits: int, per_channel: bool, acts: bool, unit: str
) -> None:
    traced = made(seed, lambda: Net(4, groups), bits, per_channel, acts=acts)
    before = weights_of(traced)
    float_again = graph.clone(traced)
    notes = adaround(traced, correlated(), replace(QUICK, steps=8, unit=unit))
    moved = 0
    for name, (weight, quantizer) in weights_of(traced).items():
        scale = quantizer.scale.double().view(-1, *[1] * (weight.dim() - 1))
        steps = weight.double() / scale
        low, high = quantizer.site.limits
        if torch.equal(weight, before[name][0]):
            continue
        moved += 1
        assert (steps - steps.round()).abs().max() < 1e-4
        assert torch.equal(torch.round(quantizer(weight).double() / scale), steps.round())
        held = (before[name][0].double() / scale).clamp(low, high)
        assert (steps.round() >= (held + 1e-4).floor()).all()
        assert (steps.round() <= (held - 1e-4).ceil()).all()
        assert steps.round().min() >= low
        assert steps.round().max() <= high
    assert bool(moved) == any("below nearest rounding" in note for note in notes)
    same = all(torch.equal(traced(batch), float_again(batch)) for batch in correlated())
    assert same or moved
    assert not (same and moved) or acts


def test_learned_rounding_moves_weights_where_that_helps() -> None:
    traced = made(0, lambda: Net(4, 1), 4, False, acts=False)
    before = weights_of(traced)
    notes = adaround(traced, correlated(), replace(QUICK, steps=8, unit="layer"))
    assert any("below nearest rounding" in note for note in notes)
    assert any(not torch.equal(weight, before[name][0]) for name, (weight, _) in weights_of(traced).items())


def best_of_all(weight: Tensor, scale: Tensor, columns: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Per channel, the least squared error over all ways to round up or down, and that of rounding to nearest."""
    gram = columns.T @ columns / len(columns)

    def error(integers: Tensor, row: Tensor, s: Tensor) -> Tensor:
        gap = integers * s - row
        return ((gap @ gram) * gap).sum(-1)

    least, nearest = [], []
    ups = torch.tensor(list(itertools.product([0.0, 1.0], repeat=weight.shape[1])))
    for row, s in zip(weight, scale, strict=True):
        least.append(error(((row / s).floor() + ups).clamp(-reach, reach), row, s).min())
        nearest.append(error((row / s).round().clamp(-reach, reach)[None], row, s)[0])
    return torch.stack(least), torch.stack(nearest)


def test_it_comes_near_the_best_of_all_roundings() -> None:
    traced = made(0, lambda: OneLayer(16), 4)
    (weight, quantizer), images = weights_of(traced)["conv.weight"], torch.cat(correlated())
    columns = nn.functional.unfold(images, (1, 3)).transpose(1, 2).flatten(0, 1)
    least, nearest = best_of_all(weight.flatten(1), quantizer.scale, columns, 7)
    adaround(traced, correlated(), replace(QUICK, steps=400))
    gap = weights_of(traced)["conv.weight"][0].flatten(1) - weight.flatten(1)
    learned = ((gap @ (columns.T @ columns / len(columns))) * gap).sum(1)
    assert learned.sum() >= least.sum() * (1 - 1e-4)
    assert nearest.sum() > 2 * least.sum(), "the images don't tell the roundings apart"
    assert learned.sum() < least.sum() + 0.15 * (nearest.sum() - least.sum())


def test_equal_seeds_give_equal_weights() -> None:
    outcomes = []
    for seed in (0, 0, 1):
        traced = made(0, lambda: Net(4, 1), 4)
        adaround(traced, correlated(), replace(QUICK, steps=20), torch.Generator().manual_seed(seed))
        outcomes.append(torch.cat([parameter.detach().flatten() for parameter in traced.parameters()]))
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])


def test_a_part_that_gets_no_better_stays_as_it_is_and_is_named() -> None:
    traced = made(0, lambda: Net(4, 1), 4)
    before = {name: weight for name, (weight, _) in weights_of(traced).items()}
    notes = adaround(traced, correlated(), replace(QUICK, steps=1, lr=1e-6, bias_lr=0.0))
    assert [note for note in notes if "first, second, head" in note]
    assert all(torch.equal(weight, before[name]) for name, (weight, _) in weights_of(traced).items())


def test_later_parts_make_up_for_the_error_of_earlier_ones() -> None:
    """With the first layer spoiled by hand, the head's targets are still those of the float network."""
    traced = made(1, lambda: Net(4, 1), 8)
    with fakequant.passing(traced), torch.no_grad():
        wanted = [traced(batch) for batch in correlated()]
    quantizer = weights_of(traced)["first.weight"][1]
    quantizer.scale *= 12
    before = torch.stack([(traced(b) - w).square().mean() for b, w in zip(correlated(), wanted, strict=True)]).mean()
    adaround(traced, correlated(), replace(QUICK, steps=200, bias_lr=0.01))
    after = torch.stack([(traced(b) - w).square().mean() for b, w in zip(correlated(), wanted, strict=True)]).mean()
    assert after < before / 4


def test_images_that_memory_does_not_hold_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rescompress.quantization.rounding.LARGEST_CACHE", 40 * 2 * 4 * 2 * 4 * 64)
    notes = adaround(made(0, lambda: Net(4, 1), 4), correlated(), replace(QUICK, steps=1))
    assert any("40 images instead of 64" in note for note in notes)


@pytest.mark.slow
def test_four_bit_digits_become_readable_again() -> None:
    pytest.importorskip("sklearn")
    model = fuse(checkpoint.load("rescompress/weights/digits_resnet20.safetensors"), Context())
    context = Context.of(model, "digits")
    traced = with_quantizers(model, 4)
    split = context.images("test")
    preprocessing = models.spec_of(model).preprocessing
    test = [images for images, _ in data.batches(split.test, preprocessing, 100, 200)]
    with torch.no_grad():
        with fakequant.passing(traced):
            wanted = torch.cat([traced(batch) for batch in test]).numpy()
        nearest = metrics.sqnr_db(wanted, torch.cat([traced(batch) for batch in test]).numpy())
        shown = (images for images, _ in data.batches(split.calibration, preprocessing, 32))
        adaround(traced, shown, AdaRound(steps=30, images=64, batch=8))
        learned = metrics.sqnr_db(wanted, torch.cat([traced(batch) for batch in test]).numpy())
    assert learned > nearest + 4
