"""Intervals of medians and ratios: what must hold for all numbers, and how often they hold the truth."""

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


def synthetic(rng: np.random.Generator, n: int, true_ratio: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Launches of two interleaved candidates on a machine with bursts of foreign load.

    Every launch has its own speed (3 %), every process its own luck (1 %), every block (1 %) and query (3 %) its own
    noise, and bursts slow down up to four neighbouring blocks by 10 % to 100 %.
    """
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for _ in range(n):
        speed = np.exp(rng.normal(0, 0.03) + rng.normal(0, 0.01, 2)) * (true_ratio, 1.0)
        blocks: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        burst = 0
        for _ in range(10):
            for i in rng.permutation(2):
                burst = burst - 1 if burst else int(rng.integers(1, 5) * (rng.random() < 0.05))
                slower = rng.uniform(1.1, 2) if burst else 1.0
                blocks[i].append(speed[i] * slower * np.exp(rng.normal(0, 0.01) + rng.normal(0, 0.03, 30)))
        for i in (0, 1):
            found[i].append(np.concatenate(blocks[i]))
    return found


@pytest.mark.parametrize("n", [5, 10])
def test_interval_of_the_ratio_holds_the_truth(n):
    generator = np.random.default_rng(n)
    trials, held = 400, 0
    for _ in range(trials):
        candidate, baseline = synthetic(generator, n, 1.1)
        found = statistics.ratio(candidate, baseline, generator)
        held += found.low <= 1.1 <= found.high
    assert held / trials >= 0.93


def test_student_t_matches_the_printed_table():
    z = 1.959964
    for nu, printed in {4: 2.776, 9: 2.262, 30: 2.042}.items():
        assert statistics.student_t(z, nu) == pytest.approx(printed, abs=2e-3)


def test_cov_sees_blocks_and_not_single_queries():
    block = np.full(100, 1000)
    interrupted = np.append(block, 10**6)
    assert statistics.cov([block, interrupted, block]) == 0
    assert statistics.cov([block, 2 * block]) == pytest.approx(1 / 3)


def test_drift_compares_the_first_third_with_the_last():
    blocks = [np.array([x]) for x in (100, 100, 100, 500, 500, 500, 104, 104, 104)]
    assert statistics.drift(blocks) == pytest.approx(0.04)
    assert statistics.drift(blocks[:1]) == 0


def test_ecdf_runs_from_the_smallest_to_the_largest():
    points = statistics.ecdf(np.arange(1001))
    assert (len(points), points[0], points[50], points[-1]) == (101, 0, 500, 1000)
