"""Every verb once for real, in all three forms of output."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest

from rescompress import progress, recipe, reporting
from rescompress.artifact import open_artifact
from rescompress.cli import VERBS, cli, guarded, show
from tests.cli.conftest import Said
from tests.jobs import TINY, litter, stamps, tiny, write

BRIEFLY = ("--launches", 2, "--blocks", 1, "--block-seconds", 0.01)


@pytest.fixture(scope="module")
def quantized(trained, tmp_path_factory) -> tuple[Path, Said]:
    """What ``rescompress quantize --int8 MODEL --data digits --to onnx -o out`` leaves and says."""
    out = tmp_path_factory.mktemp("verbs") / "out"
    words = ["quantize", "--int8", str(trained), "--data", "digits", "--to", "onnx", "-o", str(out)]
    streams = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(progress, "quiet", False)
        patch.setattr(show, "form", "human")
        stack.enter_context(contextlib.redirect_stdout(streams[0]))
        stack.enter_context(contextlib.redirect_stderr(streams[1]))
        code = guarded(lambda: cli(words, standalone_mode=False), words)
    return out, Said(code, streams[0].getvalue(), streams[1].getvalue())


@pytest.fixture
def arguments(trained, finished, quantized, tmp_path):
    """A command line for each verb that writes below ``tmp_path`` only."""
    out = ("-o", tmp_path / "out")

    def copied(folder: Path) -> Path:
        return shutil.copytree(folder, tmp_path / "out")

    artifacts = quantized[0] / "artifacts" / "onnxruntime"
    return {
        "run": lambda: (write(tmp_path / "tiny.yaml", TINY), "-o", copied(finished[0])),
        "inspect": lambda: (trained,),
        "convert": lambda: (trained, tmp_path / "converted.safetensors"),
        "fit": lambda: (trained, "--data", "digits", "--epochs", 1, *out),
        "prune": lambda: (trained, "--ratio", 0.5, "--round-to", 8, *out),
        "factorize": lambda: (trained, "--energy", 0.5, "--round-to", 4, *out),
        "distill": lambda: (trained, "--data", "digits", "--epochs", 1, "--loss", "{logits: {alpha: 0.5}}", *out),
        "fuse": lambda: (trained, *out),
        "calibrate": lambda: (trained, "--data", "digits", "-o", tmp_path / "statistics.safetensors"),
        "quantize": lambda: ("--int8", trained, "--data", "digits", "--to", "onnx", "-o", copied(quantized[0])),
        "export": lambda: (trained, "--to", "onnx", "--opset", 20, *out),
        "verify": lambda: (artifacts / "02-quantize", "--data", "digits"),
        "benchmark": lambda: (artifacts / "00-baseline", artifacts / "02-quantize", *BRIEFLY),
        "compare": lambda: (finished[0], quantized[0] / "report.json", *out),
        "report": lambda: (copied(finished[0]),),
        "doctor": lambda: (),
        "recipes": lambda: (),
        "schema": lambda: (),
    }


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "benchmark"])
def test_quiet_prints_nothing_and_json_is_one_document(verb, arguments, say):
    """The quiet one does the work; for the others most of it lies there already."""
    words = arguments[verb]()
    assert say(verb, *words, "--format", "quiet") == Said(0, "", "")
    said = say(verb, *words, "--format", "json")
    assert said.code == 0
    assert json.loads(said.out)


def test_quiet_benchmark_prints_nothing(arguments, say):
    said = say("benchmark", *arguments["benchmark"](), "--format", "quiet")
    if said.code == 6:
        pytest.skip("This machine is too busy to time anything, and the verb said so.")
    assert said == Said(0, "", "")


def test_quantize_leaves_report_and_artifacts(quantized, trained):
    out, said = quantized
    assert said.code == 0, said.err
    report = reporting.read(out)
    assert [row.label for row in report.stages] == ["00-baseline", "01-fuse", "02-quantize"]
    assert [row.label for row in report.artifacts] == ["00-baseline", "01-fuse", "02-quantize"]  # prove is all
    assert [row.precision.int8_share("conv").percent for row in report.artifacts] == [0, 0, 100]
    assert all(row.verification.failures == () for row in report.artifacts)
    assert report.benchmark is None
    for row in report.artifacts:
        assert open_artifact(out / row.folder).sha256 == row.sha256
    assert litter(out) == []


def test_human_output_is_a_table_on_stdout_and_progress_on_stderr(quantized):
    _, said = quantized
    assert all(label in said.out for label in ("00-baseline", "01-fuse", "02-quantize", "top-1 %"))
    assert "02-quantize: top-1" in said.err
    assert "report.html" in said.err
    assert "report.html" not in said.out


def test_gate_that_is_crossed_fails_and_keeps_everything(quantized, trained, tmp_path, say):
    """Ranges that cut off nearly half of all values; of the stages before, nothing is done again."""
    out = shutil.copytree(quantized[0], tmp_path / "out")
    before = stamps(out)
    coarse = ("--observer", "{percentile: {percent: 55}}", "--max-accuracy-drop", 1)
    said = say("quantize", trained, "--data", "digits", "--to", "onnx", "-o", out, *coarse)
    assert said.code == 5
    assert re.search(r"^error: onnxruntime lost \d+\.\d+ points of top-1; 1 are allowed\.$", said.err, re.MULTILINE)
    report = reporting.read(out)
    assert not report.gate.passed
    assert report.gate.accuracy_drop > 1
    for row in report.artifacts:
        assert open_artifact(out / row.folder).sha256 == row.sha256
    changed = {name for name, stamp in stamps(out).items() if stamp != before.get(name) and "/" in name}
    assert all("02-quantize" in name for name in changed - {"rows/network.json"})  # the picture of the last stage


def test_fused_checkpoint_can_be_quantized(finished, tmp_path, say):
    fused = finished[0] / "stages" / "04-fuse.safetensors"
    said = say("quantize", fused, "--data", "digits", "--calibration-images", 16, "-o", tmp_path / "out")
    assert said.code == 0, said.err
    *before, last = reporting.read(tmp_path / "out").stages
    assert last.stage == "quantize"
    assert len({row.sha256 for row in before}) == 1  # there was nothing left to fuse


def test_json_of_a_run_is_its_report(arguments, say):
    words = arguments["run"]()
    assert json.loads(say("run", *words, "--format=json").out) == json.loads((words[-1] / "report.json").read_bytes())


def test_inspect_shows_every_layer_and_the_total(trained, say):
    said = say("inspect", trained)
    assert all(text in said.out for text in ("layer3.0.conv2", "linear", "75,290 parameters"))


def test_verify_shows_both_accuracies(quantized, say):
    said = say("verify", quantized[0] / "artifacts/onnxruntime/02-quantize", "--data", "digits")
    assert (said.code, said.err) == (0, "")
    assert all(text in said.out for text in ("accuracy in its runtime", "accuracy in eager PyTorch", "verified"))


def test_verify_that_fails_says_so_in_one_document(quantized, say):
    said = say("verify", quantized[0] / "artifacts/onnxruntime/02-quantize", "--min-sqnr-db", 200, "--format", "json")
    assert said.code == 5
    json.loads(said.out)


def test_benchmark_that_is_not_valid_says_so_in_one_document(arguments, say):
    said = say("benchmark", *arguments["benchmark"](), "--strict", "--format", "json")
    assert said.code == 6
    assert "launches" in said.err or "INVALID" in said.err
    assert json.loads(said.out)


def test_report_writes_elsewhere(finished, tmp_path, say):
    said = say("report", finished[0] / "report.json", "-o", tmp_path / "again")
    written = [Path(line) for line in said.out.splitlines()]
    assert [path.name for path in written] == ["report.json", "report.md", "report.html", "model_card.md"]
    for path in written:
        assert path.read_bytes() == (finished[0] / path.name).read_bytes()


def test_doctor_names_machine_and_runtimes(say):
    said = say("doctor")
    assert "cores" in said.out
    assert "onnxruntime" in said.out
    document = json.loads(say("doctor", "--format", "json").out)
    assert {"environment", "targets", "conditions"} == set(document)
    assert document["conditions"]["affinity"] in said.out


def test_recipes_lists_and_prints(say):
    assert all(name in say("recipes").out for name in recipe.shipped())
    assert say("recipes", "digits_resnet20").out == recipe.find("digits_resnet20").read_text("utf-8")


def test_recipe_in_json_is_one_document(say):
    assert json.loads(say("recipes", "digits_resnet20", "--format", "json").out)


def test_schema_is_that_of_the_recipe(say):
    said = say("schema")
    assert json.loads(said.out) == recipe.json_schema()
    assert set(recipe.json_schema()["properties"]) == set(recipe.Recipe.model_fields)


def test_dry_run_tells_the_plan_and_writes_nothing(tmp_path, monkeypatch, say):
    file = write(tmp_path / "tiny.yaml", TINY)
    monkeypatch.chdir(tmp_path)
    for where in ((), ("-o", "elsewhere")):
        said = say("run", file, "--dry-run", *where)
        assert said.code == 0
        assert "stage 4: fuse" in said.out
        assert set(stamps(tmp_path)) == {"tiny.yaml"}
    assert isinstance(json.loads(say("run", file, "--dry-run", "--format", "json").out), list)


@pytest.mark.parametrize(
    ("override", "line", "value"),
    [
        ("stages.prune.ratio=0.5", "stage 2: prune", "ratio: 0.5"),
        ("stages.1.ratio=0.75", "stage 2: prune", "ratio: 0.75"),
        ("stages.fit.schedule.epochs=3", "stage 1: fit", "epochs: 3"),
        ("stages.fit.schedule.epochs=3", "stage 1: fit", "batch: 16"),
        (
            "stages.quantize.observer.percentile.percent=99.5",
            "stage 5: quantize",
            "observer: {percentile: {percent: 99.5}}",
        ),
        ("stages.4.observer=percentile", "stage 5: quantize", "observer: {percentile: "),
        ("stages.3=fuse", "stage 4: fuse", ""),
        ("data.imagefolder.calibration_images=16", "data: ", "calibration_images: 16"),
        ("data.imagefolder.calibration_images=16", "data: ", "root: pictures"),
        ("data=digits", "data: ", "digits"),
        ("max_accuracy_drop=2.5", "gate: ", "at most 2.5 points"),
        ("export.onnx.opset=20", "export: ", "onnxruntime"),
        ("benchmark.launches=7", "benchmark: ", "launches: 7"),
        ("model.classes=12", "model: ", "classes: 12"),
        ("model.classes=12", "model: ", "resnet8"),
    ],
)
def test_set_overrides_a_value(override, line, value, tmp_path, say):
    file = write(tmp_path / "tiny.yaml", tiny(data={"imagefolder": {"root": "pictures"}}))
    said = say("run", file, "--dry-run", "--set", override)
    assert said.code == 0, said.err
    assert value in next(found for found in said.out.splitlines() if found.startswith(line))


def test_set_keeps_the_checkpoint_when_a_field_beside_it_is_set(tmp_path, say):
    file = write(tmp_path / "tiny.yaml", tiny(model="digits_resnet20"))
    said = say("run", file, "--dry-run", "--set", "model.classes=10")
    assert "digits_resnet20" in said.out.partition("model: ")[2].partition("\n")[0]


def test_set_may_be_given_twice_and_changes_the_folder(tmp_path, say):
    file = write(tmp_path / "tiny.yaml", TINY)
    folders = {
        say("run", file, "--dry-run", *words).out.partition("\n")[0]
        for words in ((), ("--set", "seed=1"), ("--set", "seed=1", "--set", "prove=all"))
    }
    assert len(folders) == 3
