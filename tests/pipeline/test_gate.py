"""A recipe's latency gate, on a run whose stages, artifacts and timing are there already."""

import shutil

import pytest

from rescompress import pipeline, recipe, reporting
from rescompress.artifact import open_artifact
from rescompress.benchmarking import gate, results
from rescompress.errors import BenchmarkInvalid, InputRefused
from tests.jobs import tiny


@pytest.fixture
def again(finished, tmp_path, monkeypatch):
    """Do the tiny job with further entries where it was done before."""
    out = shutil.copytree(finished[0], tmp_path / "out")
    monkeypatch.setattr(pipeline.proof, "benchmark", None)  # what was timed is taken from its row

    def run(**changes):
        return pipeline.run(recipe.parse(tiny(**changes)), out)

    run.out = out
    return run


def test_a_broken_rule_fails_and_keeps_everything(again):
    with pytest.raises(BenchmarkInvalid, match=r"The size of 00-baseline is .* bytes; the limit is 1 B\."):
        again(fail_if="size>1B")
    report = reporting.read(again.out)
    assert [(row.rule, row.outcome) for row in report.rules] == [("size>1B", "broken")] * len(report.artifacts)
    assert "The size of 05-quantize" in (again.out / "report.html").read_text("utf-8")
    assert "The size of 05-quantize" in (again.out / "report.md").read_text("utf-8")


def test_a_run_keeps_to_what_it_was_before(again, finished):
    report = again(fail_if=["p50>+5%", "size>+1%", "accuracy<-0.1"], baseline_file=str(finished[0]))
    assert {row.outcome for row in report.rules} == {"kept"}
    assert len(report.rules) == 3 * len(report.artifacts)
    gate.enforce(report.rules, strict=True)


def test_a_benchmark_knows_what_the_run_has_proven(finished):
    folder, report = finished
    last = report.artifacts[-1]
    known = results.measured(open_artifact(folder / last.folder))
    assert known == results.of_report(report).artifacts[-1]
    assert known.accuracy == last.verification.accuracy
    assert known.macs == report.stages[-1].cost.macs


def test_a_missing_baseline_is_refused_before_anything_is_done(again, tmp_path):
    with pytest.raises(InputRefused, match="no such file"):
        again(fail_if="p50>+5%", baseline_file=str(tmp_path / "nowhere.json"))


def test_the_plan_names_the_gate():
    lines = pipeline.plan(recipe.parse(tiny(fail_if="p50>+5%", baseline_file="base.json")))
    assert lines[-1] == "gate: not p50>+5%, against base.json"
