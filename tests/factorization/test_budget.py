"""The knapsack: within its room, and near the best that trying everything finds."""

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescompress import catalog, cost
from rescompress.context import Context
from rescompress.errors import InputRefused
from rescompress.factorization import METHODS, factorize
from rescompress.factorization.budget import UNITS, Option, fit
from tests.factorization.test_factorize import small

numbers = st.floats(1, 100)
tables = st.lists(st.tuples(numbers, st.lists(st.tuples(numbers, numbers), max_size=4)), min_size=1, max_size=4)


def macs_of(chosen: Sequence[Option]) -> float:
    return sum(one.macs for one in chosen)


def best(layers: Mapping[str, Sequence[Option]], room: float) -> float | None:
    """Least energy lost, by trying everything."""
    fitting = [some for some in itertools.product(*layers.values()) if macs_of(some) <= room]
    return min(sum(one.lost for one in some) for some in fitting) if fitting else None


@settings(max_examples=60)
@given(tables, st.floats(0.01, 1.1))
def test_it_fits_and_loses_no_more_than_the_best(
    table: list[tuple[float, list[tuple[float, float]]]], share: float
) -> None:
    layers = {
        str(k): [Option(whole + 100, 0.0), *(Option(macs, lost, (1,)) for macs, lost in rest)]
        for k, (whole, rest) in enumerate(table)
    }
    room = share * macs_of([some[0] for some in layers.values()])
    chosen, rounded = fit(layers, room), best(layers, room * (1 - 2 * len(layers) / UNITS))
    assert (chosen is None) == (best(layers, room) is None)
    if chosen is None:
        return
    assert list(chosen) == list(layers)
    assert macs_of(list(chosen.values())) <= room * (1 + 1e-9)
    if rounded is not None:
        assert sum(one.lost for one in chosen.values()) <= rounded + 1e-9


def test_room_for_all_leaves_all_whole() -> None:
    layers = {"a": [Option(10.0, 0.0), Option(5.0, 0.1, (1,))], "b": [Option(20.0, 0.0), Option(2.0, 0.3, (2,))]}
    chosen = fit(layers, 30.1)
    assert chosen is not None
    assert [one.ranks for one in chosen.values()] == [None, None]
    thin = fit(layers, 25.0)
    assert thin is not None
    assert [one.ranks for one in thin.values()] == [(1,), None]


@pytest.mark.parametrize("method", catalog.names(METHODS.package))
def test_a_budget_is_met_and_nearly_used_up(method: str) -> None:
    factorized = factorize(small(), Context(), method=method, rank="budget", budget=0.6, round_to=1)
    share = cost.total_cost(factorized).macs / cost.total_cost(small()).macs
    assert 0.55 < share <= 0.6


def test_a_budget_that_cant_be_met_says_how_low_it_can_be() -> None:
    with pytest.raises(InputRefused, match=r"can't fall to 5\.0%: at least ([\d.]+)% remain\.") as refusal:
        factorize(small(), Context(), rank="budget", budget=0.05, round_to=1)
    least = float(refusal.value.fact.partition("at least ")[2].partition("%")[0]) / 100
    factorize(small(), Context(), rank="budget", budget=least + 0.001, round_to=1)
    with pytest.raises(InputRefused, match="can't fall"):
        factorize(small(), Context(), rank="budget", budget=least - 0.001, round_to=1)
