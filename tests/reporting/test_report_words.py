"""Headline, judgements and numbers, as a person reads them."""

import math
from dataclasses import replace
from typing import Any

import pytest

from rescompress.reporting import footnotes, verdict, wording
from rescompress.spec import LatencyRow, Proportion, RunReport

X = wording.TIMES


def retimed(report: RunReport, **changes: Any) -> RunReport:
    """The report with other numbers for the last candidate."""
    assert report.benchmark
    *others, last = report.benchmark.latencies
    return replace(report, benchmark=replace(report.benchmark, latencies=(*others, replace(last, **changes))))


def test_the_headline_compares_last_with_first(report: RunReport) -> None:
    assert verdict.headline(report) == f"0.13{X} the size, 2.9{X} faster [2.8, 3.0], accuracy 98.3 % → 97.8 %."


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ratio": 1.304, "ratio_low": 1.2, "ratio_high": 1.4}, f"1.30{X} slower [1.20, 1.40]"),
        ({"ratio": 0.97, "ratio_low": 0.9, "ratio_high": 1.02}, "no measurable difference in latency"),
        ({"ratio": 0.993, "ratio_low": 0.991, "ratio_high": 0.995}, "no measurable difference in latency"),
        ({"ratio": 0.8, "ratio_low": 0.75, "ratio_high": 0.85}, f"1.25{X} faster [1.18, 1.33]"),
        ({"backend": "elsewhere"}, "latency not measured"),
    ],
)
def test_the_headline_says_what_the_ratio_allows(changes: dict[str, Any], said: str, report: RunReport) -> None:
    assert f", {said}, " in verdict.headline(retimed(report, **changes))


def test_the_noise_floor_widens_no_difference(report: RunReport) -> None:
    assert report.benchmark
    noisy = replace(report.benchmark, noise_floor=0.1)
    row: LatencyRow = replace(noisy.latencies[1], ratio=0.95, ratio_low=0.94, ratio_high=0.96)
    assert verdict.no_difference(row, noisy)
    assert not verdict.no_difference(row, report.benchmark)


def test_the_headline_leaves_out_what_it_does_not_know(variants: dict[str, RunReport]) -> None:
    assert "latency not measured" in verdict.headline(variants["without_benchmark"])
    assert "accuracy not measured" in verdict.headline(variants["without_data"])
    assert "latency not comparable" in verdict.headline(variants["invalid_benchmark"])
    assert "(indicative)" in verdict.headline(variants["evil_names"])
    assert verdict.headline(variants["nothing_exported"]) == "No artifact was exported."
    assert verdict.phrases(variants["two_backends"])[-1] == "in onnxruntime"
    assert f"2.9{X} faster" in verdict.headline(variants["every_backend"])  # of six, the fastest is told of
    alone = replace(variants["realistic"], artifacts=variants["realistic"].artifacts[:1])
    assert verdict.headline(alone) == "One artifact of 44.8 MB, accuracy 98.3 %."


@pytest.mark.parametrize(
    ("name", "word", "tone"),
    [
        ("realistic", "Passed", "good"),
        ("without_data", "No gate was set, accuracy not measured", "warn"),
        ("without_benchmark", "Passed, not timed", "warn"),
        ("failed_gate", "Failed", "bad"),
        ("invalid_benchmark", "Passed, timing INVALID", "warn"),
        ("evil_names", "Failed", "bad"),
        ("nothing_exported", "No gate was set, nothing exported, not timed", "warn"),
    ],
)
def test_the_verdict_names_every_reservation(name: str, word: str, tone: str, variants: dict[str, RunReport]) -> None:
    judged = verdict.overall(variants[name])
    assert (judged.word, judged.tone) == (word, tone)


def test_a_failed_verification_outweighs_a_passed_gate(variants: dict[str, RunReport]) -> None:
    report = replace(variants["failed_gate"], gate=variants["realistic"].gate)
    assert verdict.overall(report).word == "Failed"
    assert [judged.tone for judged in verdict.judgements(report)] == ["good", "bad", "good"]


def test_limits_do_not_claim_what_was_not_done(variants: dict[str, RunReport]) -> None:
    assert "Nothing was timed." in footnotes.limits(variants["without_benchmark"])
    assert footnotes.limits(variants["realistic"])[-1].startswith("Energy, memory in use, and behaviour")
    assert footnotes.limits(variants["everything"])[-1].startswith("Energy, and behaviour")
    assert footnotes.limits(variants["without_data"])[0].startswith("Accuracy was not measured")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (wording.percent(None), "not measured"),
        (wording.percent(Proportion(0, 0)), "not measured"),
        (wording.percent(Proportion(1758, 1797)), "97.8 %"),
        (wording.percent(Proportion(38123, 50000)), "76.25 %"),
        (wording.percent_interval(None), ""),
        (wording.percent_interval(Proportion(10, 10)), "[72.2, 100.0]"),
        (wording.real(0.0), "0.00"),
        (wording.real(12.345), "12.3"),
        (wording.real(1234.5), "1234"),
        (wording.real(9.996), "10.0"),
        (wording.real(0.01234), "0.0123"),
        (wording.real(3.2e-6), f"3.20{X}10⁻⁶"),
        (wording.real(1.5e30, 2), f"1.5{X}10³⁰"),
        (wording.real(math.inf), "∞"),
        (wording.real(-math.inf), "-∞"),
        (wording.real(math.nan), "not a number"),
        (wording.interval(2.9, 2.71, 3.09, 2), "[2.7, 3.1]"),
        (wording.interval(1.0, 0.5, math.inf), "[0.500, ∞]"),
        (wording.decibels(math.inf), "∞ (exact)"),
        (wording.decibels(math.nan), "not a number"),
        (wording.decibels(31.68), "31.7 dB"),
        (wording.count(0), "0"),
        (wording.count(999), "999"),
        (wording.count(1000), "1.00 k"),
        (wording.count(999_999), "1.00 M"),
        (wording.count(11_181_642), "11.2 M"),
        (wording.size(512), "512 B"),
        (wording.size(5_742_408), "5.74 MB"),
        (wording.size(10**17), "100000 TB"),
        (wording.knob(None), "null"),
        (wording.knob(True), "true"),
        (wording.knob(1e-4), "0.0001"),
        (wording.knob(math.inf), "∞"),
        (wording.knob({"conv1": [1, None]}), "{conv1: [1, null]}"),
        (wording.knob("taylor"), "taylor"),
    ],
)
def test_numbers_are_written_for_people(said: str, expected: str) -> None:
    assert said == expected
