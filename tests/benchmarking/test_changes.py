"""Intervals made of two runs' own, against published examples and by drawing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescompress.agreement import Proportion
from rescompress.benchmarking import changes
from rescompress.benchmarking.statistics import Estimate
from rescompress.timing import LatencyRow


def row(p50: float, low: float, high: float) -> LatencyRow:
    return LatencyRow("x", "onnxruntime", 100, p50, low, high, None, p50, 0.0, p50, low, high, ())


@pytest.mark.parametrize(
    ("now", "before", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_points_are_those_of_newcombes_table(
    now: tuple[int, int], before: tuple[int, int], low: float, high: float
) -> None:
    """Table II, method 10, contrasts a, b, c and g of the paper."""
    found = changes.points(Proportion(*now), Proportion(*before))
    assert found.value == pytest.approx(100 * (now[0] / now[1] - before[0] / before[1]))
    assert (found.low, found.high) == (pytest.approx(100 * low, abs=0.005), pytest.approx(100 * high, abs=0.005))


def test_a_ratios_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Medians that scatter by 2 % and 5 % on the logarithmic scale, with intervals that know it."""
    rng, covered, n = np.random.default_rng(0), 0, 2000
    for _ in range(n):
        spans = []
        for truth, scatter in ((10.0, 0.02), (8.0, 0.05)):
            p50 = truth * math.exp(scatter * rng.standard_normal())
            spans.append(row(p50, p50 * math.exp(-1.96 * scatter), p50 * math.exp(1.96 * scatter)))
        found = changes.ratio(*spans)
        covered += found.low <= 1.25 <= found.high
    assert 0.935 < covered / n < 0.965


@given(st.lists(st.floats(0.1, 10), min_size=6, max_size=6))
def test_a_ratio_turned_over_is_the_other_way_round(ends: list[float]) -> None:
    one, two = (row(middle, low, high) for low, middle, high in (sorted(ends[:3]), sorted(ends[3:])))
    there, back = changes.ratio(one, two), changes.ratio(two, one)
    assert there.low <= there.value <= there.high
    assert back.value == pytest.approx(1 / there.value)
    assert (back.low, back.high) == (pytest.approx(1 / there.high), pytest.approx(1 / there.low))
    assert changes.ratio_of_ratios(one, two) == there


def test_a_run_against_itself_changes_nothing() -> None:
    assert changes.ratio(row(3.0, 3.0, 3.0), row(3.0, 3.0, 3.0)) == Estimate(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "floor", "real"),
    [
        (Estimate(1.05, 1.02, 1.08), 0.01, True),
        (Estimate(1.05, 1.02, 1.08), 0.06, False),
        (Estimate(1.05, 0.99, 1.11), 0.01, False),
        (Estimate(0.95, 0.93, 0.97), 0.01, True),
        (Estimate(1.005, 1.004, 1.006), 0.01, False),
    ],
)
def test_what_is_real(change: Estimate, floor: float, real: bool) -> None:
    assert changes.is_real(change, floor) == real
