"""The verdict, fact by fact."""

from dataclasses import replace

import pytest

from rescompress.benchmarking.validity import Facts, differs, judge
from rescompress.spec import LatencyRow

GOOD = Facts(
    launches=5,
    queries={"a": 1000, "b": 64},
    mismatched=(),
    unsteady=(),
    cov={"a": 0.01, "b": 0.05},
    drift={"a": 0.01, "b": -0.03},
    noise_floor=0.03,
    foreign=0.05,
    stolen=0.01,
)


def test_good_facts_are_valid_without_reasons():
    assert judge(GOOD) == ("VALID", ())


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        ({"launches": 4}, "Only 4 launches"),
        ({"seconds": {"a": 2.9, "b": 3.5}}, "a was measured for only 2.9 s; 3 s are needed."),
        ({"cov": {"a": 0.026, "b": 0.049}, "gpu": ("a",)}, "a varied by 2.6% from block to block; 2.5% is the limit."),
        ({"queries": {"a": 1000, "b": 63}}, "b answered only 63 queries"),
        ({"unsteady": ("b",)}, "Still warming up when they were timed: b."),
        ({"cov": {"a": 0.051, "b": 0.06}}, "b varied by 6.0%"),
        ({"drift": {"a": 0.031}}, "a drifted by +3.1%"),
        ({"drift": {"a": 0.1, "b": -0.2}}, "b drifted by -20.0%"),
        ({"noise_floor": 0.04}, "Two copies of the baseline differ by up to 4.0%"),
        ({"foreign": 0.5}, "Other programs took 50%"),
        ({"stolen": 0.02}, "The hypervisor stole 2.0%"),
    ],
)
def test_weak_fact_is_indicative_and_told(fact, said):
    verdict, reasons = judge(replace(GOOD, **fact))
    assert verdict == "INDICATIVE"
    assert len(reasons) == 1
    assert reasons[0].startswith(said)


def test_output_mismatch_is_invalid_and_told_first():
    verdict, reasons = judge(replace(GOOD, launches=2, mismatched=("b",)))
    assert verdict == "INVALID"
    assert reasons[0].startswith("b computed different outputs")
    assert len(reasons) == 2


def test_output_that_was_not_verified_is_invalid():
    verdict, reasons = judge(replace(GOOD, departed=("b",)))
    assert verdict == "INVALID"
    assert reasons == ("b computed other outputs than when it was verified (output mismatch).",)


def test_outputs_without_verified_ones_are_told_by_reason_and_change_no_verdict():
    verdict, reasons = judge(replace(GOOD, unverified={"a": "it is new", "b": "it is old", "c": "it is new"}))
    assert verdict == "VALID"
    assert [reason.partition("because ")[2] for reason in reasons] == ["it is new: a, c.", "it is old: b."]


def test_missing_fact_is_unavailable_and_changes_no_verdict():
    verdict, reasons = judge(replace(GOOD, foreign=None, stolen=None))
    assert verdict == "VALID"
    assert len(reasons) == 2
    assert all("unavailable" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("interval", "noise_floor", "answer"),
    [
        ((1.04, 1.05, 1.06), 0.01, True),
        ((0.94, 0.95, 0.96), 0.01, True),
        ((0.99, 1.05, 1.11), 0.01, False),  # 1 is inside
        ((1.004, 1.005, 1.006), 0.001, False),  # less than 1 %
        ((1.04, 1.05, 1.06), 0.07, False),  # less than two equal copies differ
    ],
)
def test_difference_needs_the_interval_and_the_floor(interval, noise_floor, answer):
    low, ratio, high = interval
    latency = LatencyRow("a", "b", 100, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, ratio, low, high, ())
    assert differs(latency, noise_floor) is answer
