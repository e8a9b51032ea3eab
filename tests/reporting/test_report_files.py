"""report.json comes back as it went; all files are the same bytes for the same report."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rescompress.artifact import to_json
from rescompress.errors import InputRefused
from rescompress.reporting import read, write
from rescompress.spec import RunReport


def test_four_files_are_written(report: RunReport, tmp_path: Path) -> None:
    paths = write(report, tmp_path / "run")
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html", "model_card.md"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(path.name for path in paths)


def test_what_is_read_is_what_was_written(any_report: RunReport, tmp_path: Path) -> None:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    content = to_json(any_report)
    (tmp_path / "report.json").write_bytes(content)
    again = read(tmp_path)
    # repr, because not-a-number equals nothing, itself included
    assert repr(again) == repr(any_report)
    assert to_json(again) == content
    assert json.loads(content, parse_constant=refuse)["name"] == any_report.name


def test_equal_reports_give_equal_files(variants: dict[str, RunReport], tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write(variants["everything"], tmp_path / "first")]
    again = read(tmp_path / "first" / "report.json")
    assert [path.read_bytes() for path in write(again, tmp_path / "second")] == first


def test_a_report_equals_itself_when_read_again(report: RunReport, tmp_path: Path) -> None:
    write(report, tmp_path)
    assert read(tmp_path) == report


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema": "rescompress.report/1"}',
        b'{"schema": "rescompress.report/2"}',
        b'{"schema": "someone.else/1", "name": "x"}',
        b'{"schema": 7}',
    ],
)
def test_a_broken_or_foreign_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(InputRefused) as caught:
        read(path)
    assert str(path) in caught.value.fact
    assert caught.value.remedy


def test_the_refusal_names_both_schemas(tmp_path: Path, report: RunReport) -> None:
    write(replace(report, schema="rescompress.report/9"), tmp_path)
    with pytest.raises(InputRefused, match=r"'rescompress\.report/9', not 'rescompress\.report/1'"):
        read(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no such file"):
        read(tmp_path / "report.json")


def test_a_report_from_before_timings_grew_is_read_and_drawn(tmp_path: Path) -> None:
    report = read(Path(__file__).parent / "before_timings.json")
    assert report.network is None
    assert report.benchmark
    assert report.benchmark.latencies[0].blocks == ()
    _, _, page, *_ = write(report, tmp_path)
    text = page.read_text("utf-8")
    assert "No plot: the blocks were not kept." in text
    assert "unavailable" not in text  # nobody asked for energy then
    assert read(tmp_path) == report
