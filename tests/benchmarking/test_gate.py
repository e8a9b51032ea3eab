"""The gate on made-up results: what is real fails, what is noise, another machine or the machine's own doesn't."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescompress.agreement import Proportion
from rescompress.benchmarking import gate
from rescompress.benchmarking.results import SCHEMA, Measured, Results
from rescompress.benchmarking.rules import parse
from rescompress.errors import BenchmarkInvalid
from rescompress.spec import Environment
from rescompress.timing import BenchmarkRow, ColdRow, LatencyRow, RuleRow

HERE = Environment("x86_64", "a processor", 2, 2**34, "Linux 6", "3.11", ("avx2",), {"onnxruntime": "1.31.1"})


def latency(label: str, p50: float, half: float, ratio: float, **more: Any) -> LatencyRow:
    return LatencyRow(
        label=label,
        backend="onnxruntime",
        queries=1000,
        p50_ms=p50,
        p50_low_ms=p50 * (1 - half),
        p50_high_ms=p50 * (1 + half),
        p90_ms=1.1 * p50,
        min_ms=0.9 * p50,
        cov=0.01,
        ratio=ratio,
        ratio_low=ratio * (1 - half),
        ratio_high=ratio * (1 + half),
        ecdf_ms=(p50,),
        **more,
    )


def timed(p50s: dict[str, float], half: float = 0.01, sha: str = "", **changes: Any) -> Results:
    """A benchmark of artifacts with these medians, the first of them the baseline.

    Args:
        p50s: median by label, in milliseconds.
        half: half-width of every interval, as a share.
        sha: what tells its artifacts from another benchmark's, all but the baseline.
        changes: of the benchmark's row.
    """
    first = next(iter(p50s.values()))
    rows = tuple(latency(label, p50, half, p50 / first) for label, p50 in p50s.items())
    made = BenchmarkRow(1, 1, 5, rows, 0.005, "VALID", (), "")
    artifacts = tuple(
        Measured(
            label, "onnxruntime", f"{label}{sha if place else ''}", 1_000_000, "int8", "fp32", Proportion(950, 1000)
        )
        for place, label in enumerate(p50s)
    )
    return Results(SCHEMA, "0.1.0", "", "f" * 16, HERE, artifacts, replace(made, **changes))


def judged(rule: str, now: Results, before: Results | None = None) -> list[tuple[str, str]]:
    return [(row.outcome, row.fact) for row in gate.judge([parse(rule)], now, before, "base.json" if before else "")]


def other(run: Results, **changes: Any) -> Results:
    """The same results of artifacts some of whose own facts are others."""
    return replace(run, artifacts=tuple(replace(one, **changes) for one in run.artifacts))


def test_a_real_regression_breaks_the_rule_and_is_told_with_its_interval() -> None:
    found = judged("p50>+5%", timed({"x": 10.73}, 0.015), timed({"x": 10.0}, 0.015))
    low, high = 1 / (1 + 0.03), 1 + 0.03  # more than both half-widths together in quadrature
    assert found[0][0] == "broken"
    said = found[0][1]
    assert said.startswith("x is 7.3 % [")
    assert said.endswith("] slower than in base.json; the limit is +5 %.")
    left, right = map(float, said[said.index("[") + 1 : said.index("]")].split(", "))
    assert 100 * (1.073 * low - 1) < left < 7.3 < right < 100 * (1.073 * high - 1)


def test_below_the_limit_is_kept_and_so_is_faster() -> None:
    assert judged("p50>+5%", timed({"x": 10.4}), timed({"x": 10.0}))[0][0] == "kept"
    outcome, fact = judged("p50>+5%", timed({"x": 8.0}), timed({"x": 10.0}))[0]
    assert outcome == "kept"
    assert "x is 20.0 % [18.9, 21.1] faster than in base.json" in fact


@pytest.mark.parametrize(
    ("half", "floor", "outcome"), [(0.01, 0.005, "broken"), (0.08, 0.005, "kept"), (0.01, 0.08, "kept")]
)
def test_a_change_within_intervals_or_noise_breaks_nothing_and_is_told(half: float, floor: float, outcome: str) -> None:
    now, before = timed({"x": 10.7}, half, noise_floor=floor), timed({"x": 10.0}, half)
    found = judged("p50>+5%", now, before)[0]
    assert found[0] == outcome
    assert (", which may be noise;" in found[1]) == (outcome == "kept")


def test_a_wanted_speed_up_that_is_not_there_fails_even_if_no_change_is_sure() -> None:
    now = timed({"baseline": 10.0, "x": 9.9}, 0.05)
    assert judged("p50>-30%", now)[0] == ("broken", "x is 1.0 % [-4.0, 5.9] faster than baseline; the limit is -30 %.")
    assert judged("p50>-30%", timed({"baseline": 10.0, "x": 6.0}))[0][0] == "kept"


def test_without_a_file_signed_limits_are_against_the_benchmarks_own_baseline() -> None:
    now = timed({"baseline": 10.0, "x": 9.0, "y": 11.0})
    found = gate.judge([parse("p50>+5%")], now)
    assert [(row.label, row.outcome) for row in found] == [("x", "kept"), ("y", "broken")]
    assert found[1].fact == "y is 10.0 % [8.9, 11.1] slower than baseline; the limit is +5 %."


def test_a_signed_limit_with_nothing_beside_the_artifact_is_refused() -> None:
    with pytest.raises(BenchmarkInvalid, match=r"p50>\+5% is against nothing: only x was timed"):
        judged("p50>+5%", timed({"x": 10.0}))


def test_an_unchanged_baseline_is_the_measure() -> None:
    """The machine is 10 % slower today; what got slower by more is slower."""
    before = timed({"baseline": 10.0, "x": 5.0})
    same, slower = timed({"baseline": 11.0, "x": 5.5}, sha="new"), timed({"baseline": 11.0, "x": 6.0}, sha="new")
    found = judged("p50>+5%", same, before)
    assert [outcome for outcome, _ in found] == ["kept", "kept"]
    assert "though neither it nor its runtime changed: the machine did" in found[0][1]
    outcome, fact = judged("p50>+5%", slower, before)[1]
    assert outcome == "broken"
    assert fact.startswith("x is 9.1 % [")
    assert "each measured beside the same baseline; the limit" in fact


def test_a_baseline_of_other_files_or_releases_measures_nothing() -> None:
    before = timed({"baseline": 10.0, "x": 5.0})
    now = timed({"baseline": 11.0, "x": 5.5}, sha="new")
    assert [row[0] for row in judged("p50>+5%", replace(now, fingerprint="0" * 16), before)] == ["broken", "broken"]
    assert [row[0] for row in judged("p50>+5%", other(now, sha256="new"), before)] == ["broken", "broken"]


def test_an_artifact_alone_is_judged_even_if_its_files_are_the_same() -> None:
    assert judged("p50>+5%", timed({"x": 11.0}), timed({"x": 10.0}))[0][0] == "broken"


def test_another_machine_is_told_and_fails_only_when_strict() -> None:
    elsewhere = replace(timed({"x": 10.0}), environment=replace(HERE, cpu="another"), fingerprint="0" * 16)
    rows = gate.judge([parse("p50>+5%")], timed({"x": 12.0}), elsewhere, "base.json")
    assert rows[0].outcome == "unsure"
    assert ", which was another machine (cpu a processor and another); the limit" in rows[0].fact
    gate.enforce(rows)
    with pytest.raises(BenchmarkInvalid, match="another machine"):
        gate.enforce(rows, strict=True)


def test_size_and_accuracy_carry_over_to_another_machine() -> None:
    elsewhere = replace(timed({"x": 10.0}), environment=replace(HERE, cpu="another"))
    assert judged("size>+5%", other(timed({"x": 1.0}), size_bytes=1_100_000), elsewhere)[0] == (
        "broken",
        "The size of x is 10.0 % higher than in base.json; the limit is +5 %.",
    )


def test_what_is_equal_is_the_same() -> None:
    assert judged("size>+5%", timed({"x": 10.0}), timed({"x": 11.0})) == [
        ("kept", "The size of x is the same as in base.json; the limit is +5 %.")
    ]


def test_an_invalid_timing_never_passes() -> None:
    bad = timed({"x": 10.0}, verdict="INVALID", reasons=("It computed something else.",))
    good = timed({"x": 10.0})
    for rule, now, before in (
        ("p50>+5%", good, bad),
        ("p50>+5%", bad, good),
        ("p50>50ms", bad, None),
        ("p90>+500%", bad, None),
    ):
        two = now if before else timed({"x": 1.0, "y": 1.0}, verdict="INVALID", reasons=("Something else.",))
        rows = gate.judge([parse(rule)], two, before, "base.json")
        assert {row.outcome for row in rows} == {"unknown"}
        with pytest.raises(BenchmarkInvalid, match="is INVALID: "):
            gate.enforce(rows)
    assert judged("size>+5%", good, bad)[0][0] == "kept"


@pytest.mark.parametrize(("setting", "value"), [("batch", 8), ("threads", 2), ("scenario", "offline")])
def test_other_settings_are_refused(setting: str, value: Any) -> None:
    before = timed({"x": 10.0}, **{setting: value})
    with pytest.raises(BenchmarkInvalid) as caught:
        judged("p50>+5%", timed({"x": 10.0}), before)
    assert f"base.json was timed with {setting} {value}, this with {setting} " in caught.value.fact
    assert caught.value.exit_code == 6
    assert judged("size>+5%", timed({"x": 10.0}), before)[0][0] == "kept"


@pytest.mark.parametrize(
    ("rule", "outcome", "fact"),
    [
        ("p50>9ms", "broken", "The p50 of x is 10 ms; the limit is 9 ms."),
        ("p50>12ms", "kept", "The p50 of x is 10 ms; the limit is 12 ms."),
        ("p90>0.01s", "broken", "The p90 of x is 11 ms; the limit is 0.01 s."),
        ("p99>1s", "unknown", "The p99 of x is not known."),
        ("first>20ms", "kept", "The first query of x is 15 ms; the limit is 20 ms."),
        ("load>1s", "unknown", "The load time of x is not known."),
        ("rss>100MB", "broken", "The peak memory of x is 2e+08 bytes; the limit is 100 MB."),
        ("throughput<100/s", "kept", "The throughput of x is 100 images/s; the limit is 100/s."),
        ("size>0.9MB", "broken", "The size of x is 1e+06 bytes; the limit is 0.9 MB."),
        ("accuracy<95%", "kept", "The accuracy of x is 95 %; the limit is 95 %."),
    ],
)
def test_each_metric_has_a_value(rule: str, outcome: str, fact: str) -> None:
    now = timed({"x": 10.0})
    assert now.benchmark
    row = replace(
        now.benchmark.latencies[0], images_per_s=100.0, cold=ColdRow(first_ms=15.0, peak_rss_bytes=200_000_000)
    )
    assert judged(rule, replace(now, benchmark=replace(now.benchmark, latencies=(row,)))) == [(outcome, fact)]


@pytest.mark.parametrize(
    ("correct", "total", "outcome"),
    [(945, 1000, "kept"), (944, 1000, "broken"), (1888, 2000, "kept"), (1800, 2000, "broken")],
)
def test_accuracy_in_points_on_the_same_images_is_exact_and_else_needs_its_interval(
    correct: int, total: int, outcome: str
) -> None:
    now = other(timed({"x": 10.0}), accuracy=Proportion(correct, total))
    found = judged("accuracy<-0.5", now, timed({"x": 10.0}))
    assert found[0][0] == outcome
    assert "points [" in found[0][1]
    assert "lower than in base.json" in found[0][1]


def test_a_rule_with_nothing_to_judge_it_by_fails() -> None:
    now, before = timed({"x": 10.0, "y": 10.0}), timed({"z": 10.0})
    rows = gate.judge([parse("p50>+5%")], now, before, "base.json")
    assert [row.fact for row in rows] == ["x is not in base.json.", "y is not in base.json."]
    with pytest.raises(BenchmarkInvalid, match=r"x is not in base\.json\. Without it the rule can't be judged"):
        gate.enforce(rows)
    unknown = other(timed({"x": 1.0}), accuracy=None)
    assert judged("accuracy<-0.5", unknown, timed({"x": 1.0}))[0][1] == "The accuracy of x is not known."
    assert judged("accuracy<-0.5", timed({"x": 1.0}), unknown)[0][1] == "The accuracy of x is not known in base.json."


def test_a_new_artifact_beside_a_judged_one_fails_only_when_strict() -> None:
    rows = gate.judge([parse("p50>+5%")], timed({"x": 10.0, "new": 10.0}), timed({"x": 10.0}), "base.json")
    assert [row.outcome for row in rows] == ["kept", "unknown"]
    gate.enforce(rows)
    with pytest.raises(BenchmarkInvalid, match="new is not in"):
        gate.enforce(rows, strict=True)


def test_several_that_fail_are_counted() -> None:
    rows = [RuleRow("p50>+5%", name, "onnxruntime", "broken", f"{name} is slower.") for name in "xyz"]
    with pytest.raises(BenchmarkInvalid) as caught:
        gate.enforce(rows)
    assert caught.value.fact == "x is slower."
    assert caught.value.remedy.endswith("2 more are listed above.")


@given(st.floats(0.2, 5), st.floats(0.001, 0.2), st.floats(-90, 90))
def test_a_broken_relative_rule_has_a_change_beyond_its_limit(change: float, half: float, limit: float) -> None:
    text = f"p50>{limit:+f}%"
    rule = parse(text)
    outcome = judged(text, timed({"x": 10 * change}, half), timed({"x": 10.0}, half))[0][0]
    real = abs(change - 1) > 0.01 and not (1 - half) ** 2 < change < 1 / (1 - half) ** 2
    beyond = 100 * (change - 1) > rule.bound
    if outcome == "broken":
        assert beyond
    elif beyond:
        assert not real
        assert limit >= 0
