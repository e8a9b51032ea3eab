"""The page: escaped, self-contained, complete, and never a bare None or nan."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from rescompress.spec import RunReport
from tests.reporting.made_up import BACKENDS

VOID_TAGS = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Texts by tag, attributes, and whether every tag was closed."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


def test_the_page_is_well_formed_small_and_alone(any_report: RunReport, page_of: Callable[[RunReport], str]) -> None:
    content = page_of(any_report)
    page = Page(content)
    assert len(content.encode()) < 1_500_000
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base"}
    assert "<script" not in content
    alone = content.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|@import|url\((?!#)", alone)
    assert all(target.startswith("#") for target in page.attributes("href") + page.attributes("src"))
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_ids_are_unique_and_references_hit(any_report: RunReport, page_of: Callable[[RunReport], str]) -> None:
    page = Page(page_of(any_report))
    ids = page.attributes("id")
    # matplotlib repeats the definition of a marker or a clip path under the same id, with the same content
    named = [identity for identity in ids if not re.fullmatch(r"[mp][0-9a-f]{10}", identity)]
    assert len(named) == len(set(named))
    targets = page.attributes("href") + [f"#{name}" for name in page.attributes("aria-labelledby")]
    assert {target[1:] for target in targets} <= set(ids)


def test_no_cell_shows_a_bare_none_or_nan(any_report: RunReport, page_of: Callable[[RunReport], str]) -> None:
    bare = re.compile(r"\b(None|nan|NaN|inf|Infinity)\b")
    texts = [text for tag, text in Page(page_of(any_report)).texts if tag != "style"]
    assert [text for text in texts if bare.search(text)] == []


def test_every_stage_is_named(any_report: RunReport, page_of: Callable[[RunReport], str]) -> None:
    texts = [text for tag, text in Page(page_of(any_report)).texts if tag == "th"]
    assert {stage.label for stage in any_report.stages} <= set(texts)


def test_what_was_not_measured_is_said(variants: dict[str, RunReport], page_of: Callable[[RunReport], str]) -> None:
    assert "not timed" in page_of(variants["without_benchmark"])
    assert "not timed" in page_of(variants["two_backends"])
    assert page_of(variants["without_data"]).count("not measured") >= 10
    assert page_of(variants["nothing_exported"]).count("No artifact was exported") >= 3
    assert "too few queries" in page_of(variants["invalid_benchmark"])
    assert "not a number" in page_of(variants["failed_gate"])
    assert "∞ (exact)" in page_of(variants["realistic"])


@pytest.mark.parametrize("name", ["failed_gate", "invalid_benchmark", "evil_names"])
def test_every_reason_stands_in_the_verdict_box(
    name: str, variants: dict[str, RunReport], page_of: Callable[[RunReport], str]
) -> None:
    report = variants[name]
    assert report.gate
    assert report.benchmark
    failures = [failure for artifact in report.artifacts for failure in artifact.verification.failures]
    box = "\n".join(text for tag, text in Page(page_of(report)).texts if tag == "dd")
    for reason in [*report.gate.reasons, *report.benchmark.reasons, *failures]:
        assert reason in box


def test_figures_and_tables_are_labelled(report: RunReport, page_of: Callable[[RunReport], str]) -> None:
    page = Page(page_of(report))
    tags = [tag for tag, _ in page.tags]
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawings) == 2 * 3
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)
    assert tags.count("table") == tags.count("caption")
    assert tags.count("figure") == tags.count("figcaption") == 4
    assert tags.count("h1") == 1


def test_each_backend_of_the_last_stage_shows_its_layers(
    variants: dict[str, RunReport], page_of: Callable[[RunReport], str]
) -> None:
    content = page_of(variants["two_backends"])
    assert "All 28 layers of 04-quantize (onnxruntime)" in content
    assert "All 28 layers of 04-quantize (openvino)" in content


def test_every_latency_that_is_not_to_be_trusted_is_struck_out(
    variants: dict[str, RunReport], page_of: Callable[[RunReport], str]
) -> None:
    report = variants["everything"]
    assert report.benchmark
    invalid = page_of(replace(report, benchmark=replace(report.benchmark, verdict="INVALID")))
    cells = re.findall(r'<td data-column="(\w[^"]*)"( class="void")?>', invalid)
    timed = {"p50", "p95", "p99", "Latency ratio", "Throughput", "Load", "First query", "Extremes"}
    assert {name for name, void in cells if void} >= timed
    assert not [name for name, void in cells if name in timed and not void]
    assert 'class="meters voided"' in invalid
    assert invalid.count("read latencies off this plot") == 3
    assert "read latencies off this plot" not in page_of(report)


def test_the_page_says_what_was_timed_where_and_under_what(
    variants: dict[str, RunReport], page_of: Callable[[RunReport], str]
) -> None:
    report = variants["everything"]
    assert report.benchmark
    asked = replace(
        report.benchmark, scenario="server", target={"qps": 40.0, "slo_ms": 15.0}, device="ssh://edge-board"
    )
    texts = [text for tag, text in Page(page_of(replace(report, benchmark=asked))).texts if tag in ("dd", "dt")]
    for said in ("qps 40, slo_ms 15", "ssh://edge-board", "Processor quota", "2.0 of 4 cores", "temperature"):
        assert any(said.lower() in text.lower() for text in texts), said
    assert any("Server" in text for text in texts)


def test_energy_is_unavailable_and_never_zero(
    variants: dict[str, RunReport], page_of: Callable[[RunReport], str]
) -> None:
    cells = re.findall(r'<td data-column="Energy"[^>]*>([^<]*)<', page_of(variants["everything"]))
    assert cells == ["unavailable"] * 5


def test_the_biggest_report_is_a_small_file_with_all_in_it(
    variants: dict[str, RunReport], page_of: Callable[[RunReport], str]
) -> None:
    report = variants["every_backend"]
    assert (len(report.artifacts), len(report.artifacts[0].precision.layers)) == (30, 72)
    content = page_of(report)
    assert len(content.encode()) < 1_300_000
    svgs = re.findall(r'<svg .*?aria-label="(\w+).*?</svg>', content, re.DOTALL)
    assert svgs == [*["Accuracy"] * 2, *["Distribution"] * 2, *["Medians"] * 2, *["The"] * 14]
    for curves in ("pareto-wide", "pareto-narrow", "latency-wide", "latency-narrow"):
        assert len(re.findall(rf'<g id="{curves}-\d+"><title>', content)) == 30
    assert content.count('<path class="trace"') == 2 * 30
    wide, narrow = re.findall(r'<svg [^>]*aria-label="Accuracy.*?</svg>', content, re.DOTALL)
    for backend in BACKENDS:
        assert f">{backend}<" in wide
        assert f">{backend}<" in narrow
    # only what nothing beats is named beside its point, and none of it where a phone has no room
    assert ">04-quantize (onnxruntime)<" in wide
    assert ">04-quantize (inductor)<" not in wide
    assert ">04-quantize (onnxruntime)<" not in narrow
