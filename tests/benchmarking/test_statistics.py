"""Intervals of medians and ratios: what must hold for all numbers, and how often they hold the truth."""

from math import exp, log
from statistics import fmean, median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescompress.benchmarking import statistics

times = st.lists(st.integers(10**3, 10**10), min_size=1, max_size=20).map(np.array)
launches = st.lists(times, min_size=2, max_size=8)
quick = settings(max_examples=40, deadline=None)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@quick
@given(launches)
def test_interval_contains_the_estimate(a):
    found = statistics.p50(a, rng())
    assert 0 < found.low <= found.value <= found.high


@quick
@given(launches)
def test_ratio_of_equal_samples_is_one(a):
    assert statistics.ratio(a, a, rng()) == statistics.Estimate(1, 1, 1)


@quick
@given(launches, st.floats(1e-3, 1e3))
def test_scaling_the_times_scales_the_interval(a, k):
    plain, scaled = statistics.p50(a, rng()), statistics.p50([k * x for x in a], rng())
    for name in ("value", "low", "high"):
        assert getattr(scaled, name) == pytest.approx(k * getattr(plain, name), rel=1e-9)


@quick
@given(st.lists(st.tuples(times, times), min_size=2, max_size=8))
def test_ratio_is_the_quotient_of_the_medians(pairs):
    a, b = ([pair[i] for pair in pairs] for i in (0, 1))
    expected = statistics.p50(a, rng()).value / statistics.p50(b, rng()).value
    assert statistics.ratio(a, b, rng()).value == pytest.approx(expected, rel=1e-9)


@quick
@given(st.lists(st.lists(st.tuples(times, times), min_size=1, max_size=6), min_size=2, max_size=6), st.floats(0.5, 2))
def test_paired_ratio_is_that_of_the_median_round(rounds, k):
    mine, theirs = ([[pair[i] for pair in one] for one in rounds] for i in (0, 1))
    found = statistics.paired(mine, theirs, rng())
    launches = [median(log(median(a)) - log(median(b)) for a, b in one) for one in rounds]
    assert found.value == pytest.approx(exp(fmean(launches)), rel=1e-9)
    assert found.low <= found.value <= found.high
    assert statistics.paired(theirs, mine, rng()).value == pytest.approx(1 / found.value, rel=1e-9)
    scaled = statistics.paired([[k * block for block in one] for one in mine], theirs, rng())
    assert scaled.high == pytest.approx(k * found.high, rel=1e-9)


def test_a_phase_in_which_all_is_slow_changes_no_paired_ratio():
    phase = np.repeat([1.0, 1.0, 7.0, 7.0, 7.0], 4)
    mine, theirs = ([speed * slow * np.ones(5) for slow in phase] for speed in (110, 100))
    mine[3] *= 9
    assert statistics.paired([mine] * 3, [theirs] * 3, rng()).value == pytest.approx(1.1)


def test_student_t_matches_the_printed_table():
    z = 1.959964
    for nu, printed in {4: 2.776, 9: 2.262, 30: 2.042}.items():
        assert statistics.student_t(z, nu) == pytest.approx(printed, abs=2e-3)


def test_cov_sees_blocks_and_not_single_queries():
    block = np.full(100, 1000)
    interrupted = np.append(block, 10**6)
    assert statistics.cov([block, interrupted, block]) == 0
    assert statistics.cov([block, 2 * block]) == pytest.approx(1 / 3)


def test_mad_is_the_median_distance_from_the_median():
    assert statistics.mad(np.array([1, 2, 3, 10, 1000])) == 2
    assert statistics.mad(np.full(9, 5)) == 0


def test_drift_compares_the_first_third_with_the_last():
    blocks = [np.array([x]) for x in (100, 100, 100, 500, 500, 500, 104, 104, 104)]
    assert statistics.drift(blocks) == pytest.approx(0.04)
    assert statistics.drift(blocks[:1]) == 0


def test_ecdf_runs_from_the_smallest_to_the_largest():
    points = statistics.ecdf(np.arange(1001))
    assert (len(points), points[0], points[50], points[-1]) == (101, 0, 500, 1000)
