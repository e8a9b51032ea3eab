"""Numbers that judge a model, against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rescompress.metrics import agreement, mcnemar, sqnr_db, top1, wilson, worst_class
from rescompress.spec import Proportion

proportions = st.integers(1, 10_000).flatmap(lambda n: st.builds(Proportion, st.integers(0, n), st.just(n)))


@given(proportions)
def test_an_interval_holds_its_proportion_and_stays_a_percentage(proportion: Proportion) -> None:
    low, high = wilson(proportion)
    assert 0 <= low <= proportion.percent + 1e-9
    assert proportion.percent - 1e-9 <= high <= 100
    assert low < high


@given(proportions)
def test_its_ends_solve_the_score_equation(proportion: Proportion) -> None:
    """Wilson's ends are where ``|p - q| = z sqrt(q (1 - q) / n)``."""
    for percent in wilson(proportion):
        q = percent / 100
        distance = abs(proportion.correct / proportion.total - q)
        assert distance == pytest.approx(1.959964 * math.sqrt(q * (1 - q) / proportion.total), abs=1e-6)


@given(proportions)
def test_more_of_the_same_narrows_it(proportion: Proportion) -> None:
    narrow = wilson(Proportion(4 * proportion.correct, 4 * proportion.total))
    wide = wilson(proportion)
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


@given(proportions)
def test_it_mirrors(proportion: Proportion) -> None:
    low, high = wilson(proportion)
    other = wilson(Proportion(proportion.total - proportion.correct, proportion.total))
    assert other == pytest.approx((100 - high, 100 - low))


def test_known_intervals() -> None:
    assert wilson(Proportion(0, 10)) == pytest.approx((0, 27.7533), abs=1e-3)
    assert wilson(Proportion(5, 10)) == pytest.approx((23.6590, 76.3410), abs=1e-3)
    assert wilson(Proportion(0, 0)) == (0, 100)
    assert math.isnan(Proportion(0, 0).percent)


def test_top1_counts_the_largest_logits() -> None:
    logits = np.array([[1, 2], [3, 0], [0, 1], [5, 4]], np.float32)
    assert top1(logits, np.array([1, 0, 0, 0])) == Proportion(3, 4)


def test_agreement_compares_two_networks() -> None:
    one = np.array([[1, 2], [3, 0], [0, 1]], np.float32)
    assert agreement(one, one * 5) == Proportion(3, 3)
    assert agreement(one, -one) == Proportion(0, 3)


def test_known_ratios_in_decibels() -> None:
    r = np.ones((4, 5), np.float32)
    assert sqnr_db(r, r * np.float32(1.1)) == pytest.approx(20, abs=1e-4)
    assert sqnr_db(r, r * 2) == pytest.approx(0)
    assert sqnr_db(r, r) == math.inf
    assert sqnr_db(np.zeros((2, 2), np.float32), r[:2, :2]) == -math.inf
    assert sqnr_db(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)) == math.inf


@given(st.integers(0, 2**32 - 1), st.integers(-20, 20), st.floats(1e-6, 1))
def test_the_ratio_knows_no_unit(seed: int, power: int, amount: float) -> None:
    random = np.random.default_rng(seed)
    r, noise = random.standard_normal((2, 8, 10)).astype(np.float32)
    o = (r + amount * noise).astype(np.float32)
    unit = np.float32(2.0**power)  # so that scaling rounds nothing
    assert sqnr_db(r * unit, o * unit) == pytest.approx(sqnr_db(r, o))


@given(st.integers(0, 2**32 - 1))
def test_less_noise_is_a_higher_ratio(seed: int) -> None:
    r, noise = np.random.default_rng(seed).standard_normal((2, 8, 10)).astype(np.float32)
    assume(float(np.abs(noise).max()) > 0)
    assert sqnr_db(r, r + noise / 100) > sqnr_db(r, r + noise)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_two_sided_binomial_test(lost, won):
    stats = pytest.importorskip("scipy.stats")
    reference = np.array([True] * lost + [False] * won + [True, False] * 5)
    other = np.array([False] * lost + [True] * won + [True, False] * 5)
    found = mcnemar(reference, other)
    assert (found.lost, found.won) == (lost, won)
    expected = stats.binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert found.p == pytest.approx(expected)


def test_mcnemar_of_a_large_split_is_no_overflow():
    reference, other = np.array([True] * 4000 + [False] * 3000), np.array([False] * 4000 + [True] * 3000)
    assert 0 < mcnemar(reference, other).p < 1e-20


def test_the_worst_class_has_enough_images():
    labels = np.array([0] * 4 + [1] * 30 + [2] * 30)
    reference = np.ones(64, bool)
    other = np.array([False] * 4 + [True] * 27 + [False] * 3 + [True] * 30)
    worst = worst_class(reference, other, labels, ("a", "b", "c"), 20)
    assert (worst.name, worst.points, worst.images) == ("b", pytest.approx(10), 30)
    assert worst_class(reference, other, labels, ("a", "b", "c"), 31) is None
