"""The Markdown: tables that any reader parses, text that no reader takes for syntax."""

import re
from dataclasses import replace

import pytest

from rescompress.reporting import markdown
from rescompress.reporting.wording import TIMES
from rescompress.spec import RunReport


def tables(content: str) -> list[list[str]]:
    """Runs of lines that start with a bar."""
    return [block.splitlines() for block in content.split("\n\n") if block.startswith("| ")]


def test_tables_are_well_formed(any_report: RunReport) -> None:
    found = tables(markdown.render(any_report))
    assert len(found) == (2 if any_report.artifacts else 1)
    for table in found:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
        assert len(widths) == 1
        assert set(table[1]) == set("| -")


def test_a_markdown_parser_sees_tables_and_no_html(any_report: RunReport) -> None:
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    kinds: list[str] = []
    for token in parser.parse(markdown.render(any_report)):
        kinds += [token.type, *(child.type for child in token.children or ())]
    assert kinds.count("table_open") == (2 if any_report.artifacts else 1)
    assert not {"html_block", "html_inline", "link_open", "image", "code_inline"} & set(kinds)
    assert kinds.count("fence") == 1


def test_every_stage_and_the_verdict_appear(report: RunReport) -> None:
    content = markdown.render(report)
    assert content.startswith("## digits-resnet18-int8: ✅ Passed\n")
    assert f"**0.13{TIMES} the size, 2.9{TIMES} faster [2.8, 3.0], accuracy 98.3 % → 97.8 %.**" in content
    for stage in report.stages:
        assert f"| {stage.label} " in content
    assert report.command in content
    assert len(content) < 6000


def test_no_cell_shows_a_bare_none_or_nan(any_report: RunReport) -> None:
    assert not re.search(r"\b(None|nan|NaN|inf|Infinity)\b", markdown.render(any_report))


def test_invalid_timings_are_struck_out(variants: dict[str, RunReport]) -> None:
    content = markdown.render(variants["invalid_benchmark"])
    assert "~~11.8 ms [11.7, 12.0]~~" in content
    assert "Benchmark INVALID" in content


def test_stages_that_were_not_exported_stand_there_too_without_their_knobs(report: RunReport) -> None:
    ends = replace(report, artifacts=(report.artifacts[0], report.artifacts[-1]))
    *_, stages = tables(markdown.render(ends))
    assert [line.split(" | ")[0] for line in stages[2:]] == [f"| {stage.label}" for stage in report.stages]
    assert "importance" not in markdown.render(ends)
