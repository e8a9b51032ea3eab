"""Latency as a cost, with a clock and a table that are made up: fast widths, checked predictions, honest words."""

from collections.abc import Iterable, Sequence
from math import ceil

import numpy as np
import pytest
from torch import nn

from rescompress import progress, pruning
from rescompress.benchmarking.layers import LayerShape, Target, shapes_of
from rescompress.context import Context
from rescompress.cost import layer_costs
from rescompress.errors import RecipeError
from rescompress.pruning import cut_channels, find_groups, prune
from rescompress.pruning.latency import Surface, timed
from rescompress.pruning.problem import grid_of
from tests.networks import stock
from tests.pruning.test_prune import some_cuts


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
        self.prepare(shapes_of(model).values())
        return sum(self.seconds(shape) for shape in shapes_of(model).values())


def install(
    monkeypatch: pytest.MonkeyPatch, runtime: Staircase, overhead: float = 0.0, factor: float = 1.0
) -> list[float]:
    """Let prune ask this runtime; a whole model takes so much longer than its layers, at its widest without factor."""
    shares: list[float] = []

    def clock(both: Sequence[nn.Module], on: Target) -> list[float]:
        first, second = (runtime.whole(model) for model in both)
        constant = overhead * first
        seconds = [first + constant, (second + constant) * factor]
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


@pytest.mark.parametrize("name", [("cifar", "resnet8", {}), ("torchvision", "resnext50_32x4d", {"side": 64})])
def test_a_whole_network_costs_the_sum_of_its_layers(name: tuple[str, str, dict[str, int]]) -> None:
    model = stock(name[0], name[1], **name[2])
    side = name[2].get("side", 32)
    groups = find_groups(model, (3, side, side))[0]
    runtime = Staircase(pack=1)
    costs = timed(model, groups, [grid_of(group, 16) for group in groups], runtime)
    cuts = some_cuts(groups, 0.0, seed=0)
    assert costs.total([group.channels for group in groups]) == pytest.approx(runtime.whole(model))
    assert costs.total([16 if group.channels > 16 else group.channels for group in groups]) > 0
    narrow = [pruning.Cut(cut.group, tuple(range(int(grid_of(cut.group, 16)[0])))) for cut in cuts]
    small = cut_channels(model, narrow)
    assert costs.total([len(cut.kept) for cut in narrow]) == pytest.approx(runtime.whole(small))


def test_a_runtime_in_packs_gets_whole_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Staircase(pack=8)
    install(monkeypatch, runtime)
    whole = stock("cifar", "resnet8")
    small = prune(whole, Context(), latency=0.6, ranking="global", round_to=2)
    assert runtime.whole(small) / runtime.whole(whole) <= 0.6
    assert all(cost.output_shape[0] % 8 == 0 for cost in layer_costs(small) if cost.op == "conv")


@pytest.mark.parametrize("ranking", ["local", "global", "isomorphic"])
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


def test_a_faster_network_than_asked_for_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Staircase(pack=1), factor=0.5)
    prune(stock("cifar", "resnet8"), Context(), latency=0.6, round_to=16)


def test_a_device_that_is_modelled_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = install(monkeypatch, Staircase(modelled=True))
    with progress.gathered() as notes:
        prune(stock("cifar", "resnet8"), Context(), latency=0.7, round_to=8)
    assert shares == []
    assert any("model" in note and "staircase" in note and "nothing was measured" in note for note in notes)
