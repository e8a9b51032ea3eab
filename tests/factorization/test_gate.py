"""A chain is kept where it is really cheaper, and what it costs is known before it is made."""

import copy
from collections.abc import Callable, Iterable

import pytest

from rescompress import catalog, cost, progress
from rescompress.benchmarking.layers import LayerShape
from rescompress.context import Context
from rescompress.errors import InputRefused
from rescompress.factorization import METHODS, ByEnergy, chain, factorize
from rescompress.factorization.gate import MARGIN, Gate
from rescompress.factorization.prices import links, runs_of
from tests.factorization.test_factorize import LOW, Twice, small, split_in
from tests.networks import custom, stock


class FakeEstimator:
    """Told what is asked for; a second for each of a layer's pixels, and more for what a test calls slow."""

    name, modelled = "a fake", True

    def __init__(self, slow: Callable[[LayerShape], bool]) -> None:
        self.known: set[LayerShape] = set()
        self.slow = slow

    def prepare(self, shapes: Iterable[LayerShape]) -> None:
        self.known |= set(shapes)

    def seconds(self, shape: LayerShape) -> float:
        assert shape in self.known
        return shape.macs * (100 if self.slow(shape) else 1)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEstimator:
    """Thin convolutions of 8 by 8 pixels are slow on it, as unaligned ones are on real runtimes."""
    made = FakeEstimator(lambda shape: shape.kernel in ((3, 1), (1, 3)) and shape.height == 8)
    monkeypatch.setattr("rescompress.factorization.gate.estimator", lambda target: made)
    return made


def test_the_latency_gate_keeps_only_what_gets_faster(fake: FakeEstimator) -> None:
    model = stock("cifar", "resnet8")
    with progress.gathered() as notes:
        factorized = factorize(model, Context(), gate="latency", **LOW)
    every = set(split_in(factorize(model, Context(), **LOW)))
    (_, refused), slow = notes, {"layer3.0.conv1", "layer3.0.conv2"}
    assert every - set(split_in(factorized)) == slow
    assert "x the time on a fake" in refused
    assert all(name in refused for name in slow)


def test_the_budget_is_met_around_what_the_gate_refuses(fake: FakeEstimator) -> None:
    model = stock("cifar", "resnet8")
    factorized = factorize(model, Context(), rank="budget", budget=0.7, round_to=2, gate="latency")
    assert not any(name.startswith("layer3") for name in split_in(factorized))
    assert cost.total_cost(factorized).macs <= 0.7 * cost.total_cost(model).macs


def test_a_budget_that_the_gate_leaves_no_room_for_is_refused(fake: FakeEstimator) -> None:
    fake.slow = lambda shape: shape.kernel in ((3, 1), (1, 3))
    with pytest.raises(
        InputRefused, match=r"can't fall to 70\.0%: at least 100\.0% remain, as 2 layers get no cheaper"
    ):
        factorize(small(), Context(), rank="budget", budget=0.7, round_to=1, gate="latency")


def test_chains_that_barely_win_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By how much a chain is faster decides, not only that it is."""
    first = [1.0 - MARGIN + 0.001, 1.0 - MARGIN - 0.001]
    for cost_of_chain, refused in zip(first, (True, False), strict=True):
        gate = Gate(1 - MARGIN, "the time", lambda shape, cost=cost_of_chain: cost if shape.out_channels == 1 else 1.0)
        whole, thin = LayerShape("conv", 4, 4), LayerShape("conv", 4, 1)
        assert bool(gate.refused({"a": (whole,)}, {"a": (thin,)})) == refused


@pytest.mark.parametrize("method", catalog.names(METHODS.package))
def test_macs_told_beforehand_are_those_of_the_chain(method: str) -> None:
    model, split = custom(Twice(), side=9), METHODS.bind(method)
    for name, runs in runs_of(model, ["conv", "conv_2", "stem"]).items():
        conv = model.get_submodule(name)
        way = split(conv)
        made, changed = way.outline(way.ranks(ByEnergy(0.3))), copy.deepcopy(model)
        changed.set_submodule(name, chain(conv, made))
        counted = cost.total_cost(changed).macs - cost.total_cost(model).macs
        assert counted == sum(shape.macs for shape in links(made, runs)) - sum(shape.macs for shape in runs)
