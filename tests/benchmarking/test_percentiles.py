"""LoadGen's early stopping: its published numbers of queries, and the binomial distribution summed term by term."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescompress.benchmarking.percentiles import slow_allowed, upper_bound


def chance_of_at_most(slow: int, queries: int, share: Fraction) -> Fraction:
    """The binomial distribution, in whole numbers."""
    return sum(comb(queries, k) * share**k * (1 - share) ** (queries - k) for k in range(slow + 1))


@pytest.mark.parametrize(("percentile", "fewest"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.99, 662), (0.999, 6636)])
def test_fewest_queries_are_the_published_ones(percentile, fewest):
    assert slow_allowed(fewest - 1, percentile) == 0
    assert slow_allowed(fewest, percentile) == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 250), st.sampled_from([50, 75, 90, 95, 99]))
def test_allowance_is_the_largest_whose_chance_is_below_one_percent(queries, percent):
    share, limit = Fraction(100 - percent, 100), Fraction(1, 100)
    slow = slow_allowed(queries, percent / 100)
    assert chance_of_at_most(slow + 1, queries, share) >= limit
    assert slow == 0 or chance_of_at_most(slow, queries, share) < limit


def test_bound_is_an_order_statistic_and_never_below_the_percentile():
    times = np.random.default_rng(0).permutation(np.arange(1, 1001))
    slow = slow_allowed(1000, 0.9)
    assert upper_bound(times, 0.9) == 1001 - slow > np.quantile(times, 0.9)
    assert upper_bound(times[:64], 0.9) == times[:64].max()
    assert upper_bound(times[:63], 0.9) is None


def test_bound_holds_in_99_of_100_runs():
    rng = np.random.default_rng(1)
    bounds = [upper_bound(rng.random(300), 0.9) for _ in range(2000)]
    assert np.mean(np.array(bounds) < 0.9) <= 0.015


def test_a_million_queries_are_counted_in_no_time():
    assert slow_allowed(10**6, 0.99) == pytest.approx(10**4 - 2.326 * (10**4 * 0.99) ** 0.5, abs=3)
