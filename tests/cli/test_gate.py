"""``benchmark`` with a file, a gate and a baseline, and ``compare``: exit codes and sentences, on made-up timings."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rescompress.benchmarking
from rescompress import recipe
from rescompress.artifact import SCHEMA, Manifest, open_artifact, write_artifact
from rescompress.cli import latencies
from rescompress.errors import RecipeError
from rescompress.reporting import sources
from rescompress.spec import BenchmarkRow, LatencyRow, ModelSpec, Preprocessing, Verdict
from tests.jobs import stamps, tiny

MODEL = ModelSpec("cifar", "resnet8", 10, Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
SLOWER = ("--fail-if", "p50>+5%")


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str, int], Path]:
    """Makes an artifact that nobody runs."""

    def make(label: str, size: int) -> Path:
        def fill(folder: Path) -> str:
            (folder / "model.onnx").write_bytes(b"x" * size)
            return "model.onnx"

        def describe(entry: str, files: dict[str, str]) -> Manifest:
            return Manifest(SCHEMA, "0", "onnxruntime", label, "int8", entry, files, MODEL, "", "", "")

        return write_artifact(tmp_path / label, fill, describe).folder

    return make


@pytest.fixture
def pair(made: Callable[[str, int], Path]) -> tuple[Path, Path]:
    return made("00-baseline", 1000), made("01-quantize", 400)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the harness is made to find: medians by label, and the verdict."""
    found: dict[str, Any] = {"00-baseline": 10.0, "01-quantize": 5.0, "verdict": "VALID", "called": 0}

    @functools.wraps(rescompress.benchmarking.benchmark)
    def benchmark(artifacts: Any, images: Any, **knobs: Any) -> tuple[BenchmarkRow, dict[str, list[list[int]]]]:
        found["called"] += 1
        labels = [open_artifact(folder).manifest.label for folder in artifacts]
        rows = tuple(_latency(label, found[label], found[label] / found[labels[0]]) for label in labels)
        verdict: Verdict = found["verdict"]
        reasons = () if verdict == "VALID" else ("Somebody else was here.",)
        row = BenchmarkRow(knobs.get("batch", 1), 1, 5, rows, 0.005, verdict, reasons, raw="")
        return row, {label: [[int(1e6 * found[label])]] for label in labels}

    monkeypatch.setattr(rescompress.benchmarking, "benchmark", benchmark)
    return found


def _latency(label: str, p50: float, ratio: float) -> LatencyRow:
    ends = (p50, 0.99 * p50, 1.01 * p50)
    return LatencyRow(
        label, "onnxruntime", 100, *ends, None, p50, 0.01, ratio, 0.99 * ratio, 1.01 * ratio, (p50,), p95_ms=2 * p50
    )


def test_results_are_kept_and_printed_alike(pair, times, tmp_path, say):
    file = tmp_path / "out" / "result.json"
    said = say("benchmark", *pair, "--batch", 2, "-o", file, *SLOWER, "--format", "json")
    assert said.code == 0, said.err
    assert json.loads(said.out) == json.loads(file.read_bytes())
    found = sources.source(file).results
    assert found.command == f"rescompress benchmark {pair[0]} {pair[1]} --batch 2"
    assert [one.label for one in found.artifacts] == ["00-baseline", "01-quantize"]
    assert [(row.rule, row.label, row.outcome) for row in found.rules] == [("p50>+5%", "01-quantize", "kept")]
    assert json.loads((tmp_path / "out" / "result-ns.json").read_bytes())["01-quantize"] == [[5_000_000]]


def test_a_regression_leaves_with_6_and_says_by_how_much(pair, times, tmp_path, say):
    base = tmp_path / "base.json"
    assert say("benchmark", *pair, "-o", base).code == 0
    assert say("benchmark", *pair, "--baseline-file", base, *SLOWER).code == 0
    times["01-quantize"] = 5.5
    said = say("benchmark", *pair, "--baseline-file", base, *SLOWER, "-o", tmp_path / "now.json")
    assert said.code == 6
    assert said.err.startswith("error: 01-quantize is 10.0 % [")
    assert "slower than in base.json, each measured beside the same 00-baseline; the limit is +5 %.\n" in said.err
    assert "p50>+5%: broken. 01-quantize is 10.0 %" in said.out
    assert (tmp_path / "now.json").is_file()  # what was measured is kept


def test_rules_may_be_several_and_need_no_file(pair, times, say):
    said = say("benchmark", *pair, "--fail-if", "p50>-30%", "--fail-if", "size>500B", "--fail-if", "p95>20ms")
    assert said.code == 6
    assert "error: The size of 00-baseline is 1000 bytes; the limit is 500 B." in said.err
    assert said.out.count("broken") == 1
    assert said.out.count("kept") == 4


def test_a_timing_that_is_invalid_passes_no_gate(pair, times, tmp_path, say):
    times["verdict"] = "INVALID"
    said = say("benchmark", *pair, "--fail-if", "p50>1s", "-o", tmp_path / "bad.json")
    assert said.code == 6
    assert "The timing is INVALID: Somebody else was here." in said.err
    times["verdict"] = "VALID"
    said = say("benchmark", *pair, *SLOWER, "--baseline-file", tmp_path / "bad.json")
    assert said.code == 6
    assert "The timing of bad.json is INVALID: Somebody else was here." in said.err


def test_strict_wants_everything_comparable(pair, times, tmp_path, say):
    base = tmp_path / "base.json"
    say("benchmark", pair[0], "-o", base)
    assert say("benchmark", *pair, *SLOWER, "--baseline-file", base).code == 0
    said = say("benchmark", *pair, *SLOWER, "--baseline-file", base, "--strict")
    assert said.code == 6
    assert "error: 01-quantize is not in base.json." in said.err


@pytest.mark.parametrize(
    ("words", "code", "fact"),
    [
        (("--fail-if", "p50>>5"), 2, "The rule 'p50>>5' can't be read at character 5: there is no finite number."),
        (("--baseline-file", "base.json"), 2, "No rule looks at the baseline file."),
        ((*SLOWER, "--baseline-file", "nowhere.json"), 4, "nowhere.json can't be read: no such file or directory."),
        (("-o", "."), 2, ". is a folder."),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_timed(words, code, fact, pair, times, say):
    said = say("benchmark", *pair, *words)
    assert said.code == code
    assert said.err.startswith(f"error: {fact}")
    assert said.err.count("\n") == 2
    assert times["called"] == 0


def test_a_signed_limit_needs_a_second_artifact_or_a_file(pair, times, say):
    said = say("benchmark", pair[0], *SLOWER)
    assert (said.code, times["called"]) == (2, 0)
    assert "error: p50>+5% is against nothing: only one artifact is named." in said.err


def test_compare_shows_both_and_writes_pages(pair, times, tmp_path, say):
    say("benchmark", *pair, "-o", tmp_path / "before.json")
    times["01-quantize"] = 2.4
    say("benchmark", *pair, "-o", tmp_path / "after.json")
    kept = stamps(tmp_path)
    said = say("compare", tmp_path / "before.json", tmp_path / "after.json", "-o", tmp_path / "out")
    assert said.code == 0, said.err
    assert "01-quantize in onnxruntime, after against before: the same size, 2.1× faster" in said.out  # noqa: RUF001
    assert set(stamps(tmp_path)) - set(kept) == {"out/compare.html", "out/compare.md"}
    document = json.loads(say("compare", tmp_path / "before.json", tmp_path / "after.json", "--format", "json").out)
    assert document["schema"] == "rescompress.compare/1"
    assert document["lineups"][1]["standings"][1]["ratio"]["value"] == pytest.approx(0.48)


def test_compare_refuses_one_alone(pair, times, tmp_path, say):
    say("benchmark", *pair, "-o", tmp_path / "one.json")
    said = say("compare", tmp_path / "one.json")
    assert (said.code, said.err.partition("\n")[0]) == (2, "error: There is nothing to compare with.")


@pytest.mark.parametrize("kind", ["recipe", "report", "bench", "compare"])
def test_every_document_has_a_schema(kind, say):
    said = say("schema", "--of", kind)
    assert said.code == 0
    assert json.loads(said.out)["properties"]


def test_columns_appear_when_somebody_measured_them(pair, times, say):
    said = say("benchmark", *pair)
    assert "p95 ms" in said.out
    assert "images/s" not in said.out
    assert "images/s" in latencies.IF_KNOWN


def test_a_recipe_has_the_same_gate(tmp_path):
    job = recipe.parse(tiny(fail_if=["p50 > +5 %", "size>10MB"], baseline_file="base.json"))
    assert job.fail_if == ("p50>+5%", "size>10MB")
    assert recipe.parse(job.filled()) == job
    assert recipe.parse(tiny(fail_if="p50>1s")).fail_if == ("p50>1s",)
    with pytest.raises(RecipeError, match="can't be read at character 4"):
        recipe.parse(tiny(fail_if="p50"))
    with pytest.raises(RecipeError, match="No rule looks at the baseline_file"):
        recipe.parse(tiny(baseline_file="base.json"))
