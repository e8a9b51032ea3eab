"""A file of results comes back as it went, with every nanosecond beside it, and fits its schema."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rescompress.artifact import open_artifact, to_json
from rescompress.benchmarking import results
from rescompress.errors import InputRefused
from rescompress.reporting import json_schema, sources
from rescompress.timing import BenchmarkRow, LatencyRow, RuleRow

ROW = LatencyRow("00-quick", "spinning", 100, 1.0, 0.9, 1.1, None, 0.8, 0.01, 1.0, 1.0, 1.0, (0.8, 1.0, 2.0))
RAW = {"00-quick spinning": [[1_000_000, 1_000_001], [999_999]], "00-quick spinning (A/A)": [[1]]}


@pytest.fixture
def found(spinning) -> results.Results:
    opened = open_artifact(spinning("00-quick"))
    row = BenchmarkRow(1, 1, 2, (ROW,), 0.01, "VALID", (), raw="")
    made = results.results(row, [opened], "rescompress benchmark x")
    return replace(made, rules=(RuleRow("p50>12ms", "00-quick", "spinning", "kept", "It is."),))


def test_what_is_written_is_read_back(found: results.Results, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "result.json"
    written = results.write(found, RAW, file)
    assert sorted(path.name for path in file.parent.iterdir()) == ["result-ns.json", "result.json"]
    again = sources.source(file)
    assert (again.name, again.results, again.report) == ("result", written, None)
    assert written.benchmark
    beside = file.with_name(written.benchmark.raw)
    assert json.loads(beside.read_bytes()) == RAW
    assert written.raw_sha256 == hashlib.sha256(beside.read_bytes()).hexdigest()
    assert json.loads(file.read_bytes())["schema"] == "rescompress.bench/1"


def test_it_knows_artifact_machine_and_tool(found: results.Results, spinning) -> None:
    (known,) = found.artifacts
    opened = open_artifact(spinning("00-quick"))
    assert (known.label, known.backend, known.precision, known.floats) == ("00-quick", "spinning", "fp32", "fp32")
    assert (known.sha256, known.size_bytes) == (opened.sha256, opened.size_bytes)
    assert (known.accuracy, known.macs) == (None, None)
    assert len(found.fingerprint) == 16
    assert found.latency(known) == ROW
    assert found.match(replace(known, sha256="another")) == known
    assert found.match(replace(known, backend="another")) is None


def test_every_key_that_is_written_stands_in_the_schema(found: results.Results) -> None:
    schema = json_schema("bench")

    def check(value: Any, form: dict[str, Any], where: str) -> None:
        if "$ref" in form:
            form = schema["$defs"][form["$ref"].rpartition("/")[2]]
        for option in form.get("anyOf", ()):
            if "$ref" in option and isinstance(value, dict):
                return check(value, option, where)
        if isinstance(value, dict) and "properties" in form:
            assert set(value) == set(form["properties"]), where
            assert set(form.get("required", ())) <= set(value), where
            for key, inner in value.items():
                check(inner, form["properties"][key], f"{where}.{key}")
        elif isinstance(value, list) and isinstance(form.get("items"), dict):
            for inner in value:
                check(inner, form["items"], where)
        return None

    check(json.loads(to_json(found)), schema, "")
    assert set(schema["required"]) >= {"schema", "fingerprint", "artifacts", "benchmark"}


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"schema": "rescompress.bench/2"}', b'{"schema": "rescompress.bench/1"}']
)
def test_a_broken_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "base.json").write_bytes(content)
    with pytest.raises(InputRefused) as caught:
        sources.source(tmp_path / "base.json")
    assert str(tmp_path / "base.json") in caught.value.fact
    assert "rescompress benchmark -o" in caught.value.remedy
