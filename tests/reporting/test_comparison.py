"""Runs side by side: what is matched, what is compared, what is left alone, and how it is written."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import rescompress
from rescompress.artifact import to_json, write_bytes
from rescompress.benchmarking import results
from rescompress.errors import InputRefused, RecipeError
from rescompress.metrics import wilson
from rescompress.reporting import compared, differences
from rescompress.reporting.comparison import Comparison, compare
from rescompress.reporting.wording import TIMES
from rescompress.spec import RunReport
from tests.reporting.test_report_html import Page


def kept(report: RunReport, folder: Path) -> Path:
    write_bytes(folder / "report.json", to_json(report))
    return folder


def slower(report: RunReport, factor: float) -> RunReport:
    assert report.benchmark
    rows = tuple(
        replace(
            row, p50_ms=row.p50_ms * factor, p50_low_ms=row.p50_low_ms * factor, p50_high_ms=row.p50_high_ms * factor
        )
        for row in report.benchmark.latencies
    )
    return replace(report, benchmark=replace(report.benchmark, latencies=rows))


@pytest.fixture
def found(variants: dict[str, RunReport], tmp_path: Path) -> Comparison:
    """A run, the same 20 % slower and on another release with another recipe, and one whose timing is INVALID."""
    first = variants["realistic"]
    packages = {**first.environment.packages, "onnxruntime": "1.24.0"}
    second = replace(
        slower(first, 1.2),
        environment=replace(first.environment, packages=packages),
        recipe_yaml=first.recipe_yaml.replace("ratio: 0.3", "ratio: 0.5"),
    )
    third = variants["invalid_benchmark"]
    return compare([kept(one, tmp_path / name) for name, one in (("a", first), ("b", second), ("c", third))])


def test_artifacts_are_matched_by_label_and_backend(found: Comparison, report: RunReport) -> None:
    assert [side.name for side in found.sides] == ["a", "b", "c"]
    assert [(one.label, one.backend) for one in found.lineups] == [(r.label, r.backend) for r in report.artifacts]
    for lineup, row, stage in zip(found.lineups, report.artifacts, report.stages, strict=True):
        assert all(one and one.size_bytes == row.size_bytes and one.macs == stage.cost.macs for one in lineup.standings)


def test_ratios_are_against_the_first_and_hold_both_intervals(found: Comparison) -> None:
    for lineup in found.lineups:
        first, second, third = lineup.standings
        assert first
        assert second
        assert third
        assert (first.ratio, first.remark) == (None, "")
        assert second.ratio
        assert first.p50_ms
        assert second.ratio.value == pytest.approx(1.2)
        assert second.different
        shares = (first.p50_ms.low / first.p50_ms.value, first.p50_ms.high / first.p50_ms.value)
        assert 1.2 * min(shares) / max(shares) < second.ratio.low < 1.2 * min(shares)
        assert (third.ratio, third.remark) == (None, "the timing is INVALID")


def test_accuracies_differ_by_points_with_an_interval(
    variants: dict[str, RunReport], report: RunReport, tmp_path: Path
) -> None:
    rows = tuple(
        replace(row, verification=replace(row.verification, accuracy=replace(row.verification.accuracy, correct=1700)))
        for row in report.artifacts
        if row.verification.accuracy
    )
    found = compare([kept(report, tmp_path / "a"), kept(replace(report, artifacts=rows), tmp_path / "b")])
    standing = found.lineups[0].standings[1]
    assert standing
    assert standing.points
    assert standing.accuracy
    assert standing.points.value == pytest.approx(100 * (1700 - 1766) / 1797)
    widest = sum(
        high - low for low, high in map(wilson, (standing.accuracy, report.artifacts[0].verification.accuracy))
    )
    assert 0 < standing.points.high - standing.points.low < widest
    unknown = compare([kept(variants["without_data"], tmp_path / "c"), tmp_path / "a"]).lineups[0].standings[1]
    assert unknown
    assert unknown.points is None


def test_what_differs_is_told_and_nothing_else(found: Comparison) -> None:
    assert [(one.name, one.values) for one in found.environment] == [("onnxruntime", ("1.23.2", "1.24.0", "1.23.2"))]
    assert [(one.name, one.values) for one in found.recipe] == [("stages.prune.ratio", ("0.3", "0.5", "0.3"))]


def test_settings_that_differ_leave_no_ratio(report: RunReport, tmp_path: Path) -> None:
    assert report.benchmark
    other = replace(report, benchmark=replace(report.benchmark, batch=8))
    found = compare([kept(report, tmp_path / "a"), kept(other, tmp_path / "b")])
    assert {one.standings[1].remark for one in found.lineups if one.standings[1]} == {"timed with another batch"}
    assert [one.values for one in found.environment] == [
        ("batch 1, 4 threads, 5 launches", "batch 8, 4 threads, 5 launches")
    ]


def test_another_machine_is_told_beside_the_ratio(report: RunReport, tmp_path: Path) -> None:
    other = replace(report, environment=replace(report.environment, cpu="another"))
    found = compare([kept(report, tmp_path / "a"), kept(other, tmp_path / "b")])
    standing = found.lineups[-1].standings[1]
    assert standing
    assert standing.ratio
    assert standing.remark == "another machine"
    assert "cpu another and" in found.sides[1].elsewhere
    assert "(another machine)" in compared.headline(found)


def test_a_benchmark_alone_stands_beside_a_run(report: RunReport, tmp_path: Path) -> None:
    made = replace(results.of_report(report), artifacts=results.of_report(report).artifacts[:2])
    results.write(made, {}, tmp_path / "bench.json")
    found = compare([kept(report, tmp_path / "run"), tmp_path / "bench.json", tmp_path / "run" / "report.json"])
    assert [(side.name, side.title) for side in found.sides] == [
        ("run #1", report.name),
        ("bench", "benchmark"),
        ("run #3", report.name),
    ]
    assert [one.standings[1] is None for one in found.lineups] == [False, False, True, True, True]
    assert found.recipe == ()


def test_less_than_two_and_what_is_no_source_are_refused(report: RunReport, tmp_path: Path) -> None:
    run = kept(report, tmp_path / "a")
    with pytest.raises(RecipeError, match="nothing to compare with"):
        compare([run])
    with pytest.raises(InputRefused, match="no such file"):
        compare([run, tmp_path / "b"])
    write_bytes(tmp_path / "x.json", b'{"schema": "rescompress.error/1"}')
    with pytest.raises(InputRefused, match=r"not 'rescompress\.report/1' or 'rescompress\.bench/1'"):
        compare([run, tmp_path / "x.json"])


def test_the_public_call_is_the_same(report: RunReport, tmp_path: Path) -> None:
    assert rescompress.compare is compare
    json.loads(to_json(compare([kept(report, tmp_path / "a")] * 2)))


@pytest.mark.parametrize("other", ["two_backends", "nothing_exported", "evil_names"])
def test_both_pages_are_well_formed(other: str, variants: dict[str, RunReport], tmp_path: Path) -> None:
    found = compare([kept(variants["evil_names"], tmp_path / "a"), kept(variants[other], tmp_path / "b<i>&")])
    pages = compared.write(found, tmp_path / "out")
    assert [page.name for page in pages] == ["compare.html", "compare.md"]
    content, text = (page.read_text("utf-8") for page in pages)
    page = Page(content)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base", "i"}
    assert not re.search(r"https?://|@import|url\((?!#)", content)
    for said in (text, *(words for tag, words in page.texts if tag != "style")):
        assert not re.search(r"\b(None|nan|NaN|inf|Infinity)\b", said)
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    assert tables
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert [path.read_bytes() for path in compared.write(found, tmp_path / "again")] == [p.read_bytes() for p in pages]


def test_invalid_timings_are_struck_out_and_not_drawn(found: Comparison) -> None:
    text, content = compared.render_markdown(found), compared.render(found)
    assert text.count("~~") == 2 * len(found.lineups)
    assert content.count('class="void"') == len(found.lineups)
    drawn = set(re.findall(r'<g id="medians-wide-(\d+-\d+)"><title>', content))
    assert drawn == {f"{row}-{side}" for row in range(len(found.lineups)) for side in (0, 1)}


def test_the_headline_is_of_the_last_that_first_and_last_share(found: Comparison, tmp_path: Path) -> None:
    two = replace(
        found, sides=found.sides[:2], lineups=tuple(replace(o, standings=o.standings[:2]) for o in found.lineups)
    )
    said = compared.headline(two)
    assert said.startswith(
        f"04-quantize in onnxruntime, b against a: the same size, 1.20{TIMES} slower [1.17, 1.23], accuracy "
    )
    assert "latency not comparable (the timing is INVALID)" in compared.headline(found)


def test_recipes_are_compared_value_by_value() -> None:
    one = {
        "stages": [{"fit": {"epochs": 1}}, {"prune": {"ratio": 0.3}}, {"fit": {"epochs": 2}}],
        "seed": 0,
        "data": None,
    }
    two = {"stages": [{"fit": {"epochs": 1}}, {"fuse": {}}], "seed": 1, "data": None, "export": ["onnx"]}
    found = differences.of_recipes([yaml.safe_dump(one), None, yaml.safe_dump(two)])
    assert {each.name: each.values for each in found} == {
        "seed": ("0", "absent", "1"),
        "stages": ("fit, prune, fit", "absent", "fit, fuse"),
        "stages.0.fit.epochs": ("1", "absent", "absent"),
        "stages.prune.ratio": ("0.3", "absent", "absent"),
        "stages.2.fit.epochs": ("2", "absent", "absent"),
        "stages.fit.epochs": ("absent", "absent", "1"),
        "stages.fuse": ("absent", "absent", "{}"),
        "export": ("absent", "absent", "[onnx]"),
    }
