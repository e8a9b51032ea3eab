"""Latency as a cost, with a clock and a table that are made up: fast widths, checked predictions, honest words."""

from collections.abc import Iterable, Sequence
from math import ceil

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rescompress import progress, pruning
from rescompress.benchmarking.layers import LayerShape, Target
from rescompress.context import Context
from rescompress.errors import RecipeError
from rescompress.layers import PadShortcut
from rescompress.pruning import cut_channels, find_groups, prune
from rescompress.pruning.latency import Surface, timed
from rescompress.pruning.problem import grid_of
from tests.networks import noise, stock


class Staircase:
    """A runtime that computes channels in packs, and takes as long for half a pack as for a whole one."""

    name, modelled = "staircase", False

    def __init__(self, pack: int = 8, modelled: bool = False) -> None:
        self.pack, self.modelled, self.prepared = pack, modelled, set[LayerShape]()

    def prepare(self, shapes: Iterable[LayerShape]) -> None:
        self.prepared |= set(shapes)

    def seconds(self, shape: LayerShape) -> float:
        assert shape in self.prepared
        packs = ceil(shape.in_channels / self.pack) * ceil(shape.out_channels / self.pack)
        height, width = shape.output_size
        return 1e-9 * packs * self.pack**2 / shape.groups * height * width * shape.kernel[0] * shape.kernel[1]

    def whole(self, model: nn.Module) -> float:
        self.prepare(seen(model))
        return sum(self.seconds(shape) for shape in seen(model))


def seen(model: nn.Module) -> list[LayerShape]:
    """What each layer is handed, without a captured graph, which takes its time."""
    found: list[LayerShape] = []

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ins, outs, size = inputs[0].shape[1], output.shape[1], tuple(inputs[0].shape[2:])
        if isinstance(layer, nn.Linear):
            found.append(LayerShape("linear", ins, outs))
        elif isinstance(layer, PadShortcut):
            found.append(LayerShape("conv", ins, outs, (1, 1), (layer.stride,) * 2, height=size[0], width=size[1]))
        else:
            pairs = layer.kernel_size, layer.stride, layer.padding, layer.dilation
            found.append(LayerShape("conv", ins, outs, *pairs, layer.groups, *size))

    hooks = [
        layer.register_forward_hook(hook)
        for layer in model.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear, PadShortcut))
    ]
    with torch.no_grad():
        model(noise(model))
    for each in hooks:
        each.remove()
    return found


def install(monkeypatch: pytest.MonkeyPatch, runtime: Staircase, overhead: float = 0.0) -> list[float]:
    """Let prune ask this runtime; a whole model takes longer than its layers by a share of the uncut one."""
    shares: list[float] = []

    def clock(both: Sequence[nn.Module], on: Target) -> list[float]:
        first, second = (runtime.whole(model) for model in both)
        constant = overhead * first
        seconds = [first + constant, second + constant]
        shares.append(seconds[1] / seconds[0])
        return seconds

    monkeypatch.setattr(pruning, "estimator", lambda on: runtime)
    monkeypatch.setattr(pruning, "time_models", clock)
    return shares


def test_a_surface_is_bilinear_between_its_knots() -> None:
    inputs, outputs = [2, 4, 8], [1, 5]
    surface = Surface(inputs, outputs, np.array([[3.0 * i + 2 * o + i * o for o in outputs] for i in inputs]))
    i, o = np.array([2, 3, 5, 8]), np.array([1, 2, 4, 5])
    assert surface(i, o).tolist() == pytest.approx((3 * i + 2 * o + i * o).tolist())
    assert float(surface(3, 5)) == pytest.approx(3 * 3 + 2 * 5 + 15)
    assert float(Surface([4], [4], np.array([[7.0]]))(4, 4)) == 7


@pytest.mark.parametrize(
    ("family", "architecture", "side"),
    [
        ("cifar", "resnet8", 32),
        pytest.param("torchvision", "resnext50_32x4d", 64, marks=pytest.mark.slow),  # has grouped convolutions
    ],
)
def test_a_whole_network_costs_the_sum_of_its_layers(family: str, architecture: str, side: int) -> None:
    model = stock(family, architecture, side=side)
    groups = find_groups(model, (3, side, side))[0]
    runtime = Staircase(pack=1)
    costs = timed(model, groups, [grid_of(group, 16) for group in groups], runtime)
    assert costs.total([group.channels for group in groups]) == pytest.approx(runtime.whole(model))
    narrow = [pruning.Cut(group, tuple(range(int(grid_of(group, 16)[0])))) for group in groups]
    small = cut_channels(model, narrow)
    assert costs.total([len(cut.kept) for cut in narrow]) == pytest.approx(runtime.whole(small))


@pytest.mark.slow
def test_a_runtime_in_packs_gets_whole_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Staircase(pack=8)
    install(monkeypatch, runtime)
    whole = stock("cifar", "resnet8")
    small = prune(whole, Context(), latency=0.6, ranking="global", round_to=4)
    assert runtime.whole(small) / runtime.whole(whole) <= 0.6
    assert all(shape.out_channels % 8 == 0 for shape in seen(small) if shape.op == "conv")


@pytest.mark.parametrize("ranking", ["local", pytest.param("global", marks=pytest.mark.slow)])
def test_what_the_table_leaves_out_is_corrected(monkeypatch: pytest.MonkeyPatch, ranking: str) -> None:
    shares = install(monkeypatch, Staircase(pack=1), overhead=0.15)
    with progress.gathered() as notes:
        prune(stock("cifar", "resnet8"), Context(), latency=0.6, ranking=ranking, round_to=4)
    assert len(shares) > 1, "the first plan can't have met it"
    assert min(abs(share / 0.6 - 1) for share in shares) <= 0.1
    assert sum("predicted" in note and "measured on the whole model" in note for note in notes) == len(shares)


def test_a_latency_that_no_network_reaches_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = install(monkeypatch, Staircase(pack=1), overhead=3.0)
    with pytest.raises(RecipeError, match=r"latency 0\.5 can't be met: the closest network that was timed has 0\.\d+"):
        prune(stock("cifar", "resnet8"), Context(), latency=0.5, round_to=4)
    assert min(shares) > 0.55


def test_a_device_that_is_modelled_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = install(monkeypatch, Staircase(modelled=True))
    with progress.gathered() as notes:
        prune(stock("cifar", "resnet8"), Context(), latency=0.7, round_to=8)
    assert shares == []
    assert any("model" in note and "staircase" in note and "nothing was measured" in note for note in notes)
