"""One whole run of the tiny job, from random weights to a timed INT8 artifact, and what its folder holds."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from rescompress import artifact, backends, catalog, checkpoint, graph, pipeline, recipe, reporting
from rescompress.artifact import open_artifact, sha256_of
from rescompress.errors import GateFailed, TargetsFailed
from rescompress.spec import Environment, StageRow
from tests import networks
from tests.jobs import LABELS, TINY, litter, stamps, tiny

ENDS = (LABELS[0], LABELS[-1])


def from_checkpoint(path: Path, **changes: object) -> recipe.Recipe:
    return recipe.parse(tiny(name="short", model=str(path), benchmark=False, **changes))


def test_folder_holds_what_the_architecture_says(finished):
    folder, _ = finished
    expected = {".lock", "recipe.yaml", "environment.json", "report.html", "report.md", "report.json", "model_card.md"}
    expected |= {f"stages/{label}.{kind}" for label in LABELS for kind in ("safetensors", "json")}
    kept = ("model.onnx", "manifest.json", "verified.json")
    expected |= {f"artifacts/onnxruntime/{label}/{file}" for label in ENDS for file in kept}
    expected |= {f"rows/onnxruntime-{label}.json" for label in ENDS}
    expected |= {"rows/benchmark.json", "rows/latency-ns.json", "rows/network.json"}
    trained = [label for label in LABELS if label.endswith(("fit", "distill"))]
    expected |= {f"training/{label}/{file}" for label in trained for file in ("journal.jsonl", "key")}
    assert set(stamps(folder)) == expected
    assert not litter(folder)


def test_report_is_read_back_as_it_was_returned(finished):
    folder, report = finished
    assert reporting.read(folder) == report
    assert report.model == "cifar resnet8, 10 classes"
    assert report.data == "digits"
    html, markdown = ((folder / f"report.{kind}").read_text("utf-8") for kind in ("html", "md"))
    assert html.startswith("<!doctype html>")
    for text in (html, markdown):
        assert all(label in text for label in ENDS)


def test_environment_is_written(finished):
    folder, report = finished
    written = TypeAdapter(Environment).validate_json((folder / "environment.json").read_bytes())
    assert written == report.environment


def test_recipe_of_the_folder_is_the_same_job(finished):
    folder, report = finished
    text = (folder / "recipe.yaml").read_text("utf-8")
    again = recipe.read(folder / "recipe.yaml")
    assert again.digest == recipe.parse(TINY).digest
    assert again.filled() == recipe.parse(TINY).filled()
    assert report.recipe_yaml == text
    assert "weight_decay" in text  # defaults are filled in


def test_stage_rows_describe_their_checkpoints(finished):
    folder, report = finished
    assert tuple(row.label for row in report.stages) == LABELS
    for row in report.stages:
        assert row.sha256 == sha256_of(folder / "stages" / row.checkpoint)
        stored = json.loads((folder / "stages" / f"{row.label}.json").read_bytes())
        assert stored["key"] == row.key
        assert TypeAdapter(StageRow).validate_python(stored["row"]) == row


def test_artifact_rows_describe_their_artifacts(finished):
    folder, report = finished
    stages = {row.label: row for row in report.stages}
    assert tuple(row.label for row in report.artifacts) == ENDS
    for row in report.artifacts:
        built = open_artifact(folder / row.folder)
        assert (row.sha256, row.size_bytes) == (built.sha256, built.size_bytes)
        assert built.manifest.label == row.label
        assert built.manifest.source_sha256 == stages[row.label].sha256
        source = built.folder / built.manifest.source
        assert source.resolve() == (folder / "stages" / stages[row.label].checkpoint).resolve()


def test_an_onnx_file_says_where_it_came_from(finished):
    onnx = pytest.importorskip("onnx")
    folder, report = finished
    stages = {row.label: row for row in report.stages}
    for row in report.artifacts:
        said = {prop.key: prop.value for prop in onnx.load(folder / row.folder / "model.onnx").metadata_props}
        assert said["rescompress.recipe"] == stages[row.label].key
        assert said["rescompress.source_sha256"] == stages[row.label].sha256


def test_all_of_the_last_artifact_runs_in_int8_and_none_of_the_first(finished):
    first, last = finished[1].artifacts
    for op, count in {"conv": 9, "add": 3, "linear": 1, "pool": 1}.items():
        assert (first.precision.int8_share(op).correct, first.precision.int8_share(op).total) == (0, count)
        assert (last.precision.int8_share(op).correct, last.precision.int8_share(op).total) == (count, count)


def test_training_taught_it_and_pruning_cut_it(finished):
    rows = {row.stage: row for row in finished[1].stages}
    assert rows["baseline"].accuracy.percent < 25 < 60 < rows["fit"].accuracy.percent
    assert rows["prune"].cost.params < rows["fit"].cost.params
    assert rows["prune"].cost.macs < rows["fit"].cost.macs
    assert rows["distill"].accuracy.percent > rows["prune"].accuracy.percent
    assert rows["fuse"].accuracy == rows["distill"].accuracy
    assert rows["quantize"].cost.weight_bytes < 0.3 * rows["fuse"].cost.weight_bytes


def test_batch_norm_is_gone_after_fuse(finished):
    folder, _ = finished
    fused = checkpoint.load(folder / "stages" / "04-fuse.safetensors")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())


def test_runtime_agrees_with_eager(finished):
    for row, stage in zip(finished[1].artifacts, (finished[1].stages[0], finished[1].stages[-1]), strict=True):
        assert row.verification.failures == ()
        assert row.verification.inputs == "test split"
        assert row.verification.reference_accuracy == stage.accuracy


def test_benchmark_times_what_was_exported(finished):
    folder, report = finished
    row = report.benchmark
    assert tuple(latency.label for latency in row.latencies) == ENDS
    assert (row.launches, row.threads, row.batch) == (2, 1, 1)
    raw = json.loads((folder / row.raw).read_bytes())
    assert [len(launches) for launches in raw.values()] == [2, 2, 2]
    assert sum(map(len, raw[f"{ENDS[1]} onnxruntime"])) == row.latencies[1].queries


def test_gate_that_holds_is_reported(finished):
    gate = finished[1].gate
    assert gate.passed
    assert gate.accuracy_drop < 0  # the baseline had random weights
    assert gate.reasons == ()


def test_second_run_of_the_same_job_only_writes_the_reports_again(finished, tmp_path):
    folder, report = shutil.copytree(finished[0], tmp_path / "copy"), finished[1]
    before = stamps(folder)
    assert pipeline.run(recipe.parse(TINY), folder).artifacts == report.artifacts
    after = stamps(folder)
    changed = {name for name in before.keys() | after.keys() if after.get(name) != before.get(name)}
    assert changed <= {
        "recipe.yaml",
        "environment.json",
        "report.html",
        "report.md",
        "report.json",
        "model_card.md",
        ".lock",
    }
    assert not litter(folder)


def test_verification_that_fails_fails_the_run_and_keeps_everything(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    with pytest.raises(GateFailed, match=r"05-quantize: The logits' SQNR is .* dB, below 80 dB"):
        pipeline.run(recipe.parse(tiny(verify={"min_sqnr_db": 80})), folder)
    report = reporting.read(folder)
    assert [bool(row.verification.failures) for row in report.artifacts] == [False, True]
    assert report.gate.passed


def test_gate_holds_without_an_export_too(trained, tmp_path):
    stages = [{"prune": {"ratio": 0.9, "round_to": 1}}]
    job = from_checkpoint(trained, stages=stages, max_accuracy_drop=1.0, export=None)
    with pytest.raises(GateFailed):
        pipeline.run(job, tmp_path / "out")


REFUSING = '''
"""A backend that gives up half-way."""
from rescompress.errors import InputRefused

SCHEME = None

def missing():
    return None

def rung():
    return "L3", ""

def versions():
    return {}

def export(model, spec, folder):
    (folder / "half").write_bytes(b"half")
    raise InputRefused("It can't be expressed.", "Leave it out.")
'''


@pytest.fixture
def refusing(tmp_path):
    """One more file in the folder of backends, as far as the registry can tell."""
    (tmp_path / "backends").mkdir()
    (tmp_path / "backends" / "refusing.py").write_text(REFUSING, "utf-8")
    backends.__path__.append(str(tmp_path / "backends"))
    catalog.names.cache_clear()
    yield "refusing"
    backends.__path__.pop()
    catalog.names.cache_clear()


def test_target_that_fails_leaves_the_others(refusing, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    with pytest.raises(TargetsFailed, match="refusing failed: It can't be expressed") as caught:
        pipeline.run(recipe.parse(tiny(export=[refusing, "onnx"])), folder)
    assert caught.value.exit_code == 3
    assert reporting.read(folder).artifacts == finished[1].artifacts
    assert list((folder / "artifacts" / refusing).iterdir()) == []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two classes of noise in colours of their own: 40 pictures to train on, 8 to test on."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 4)):
        for place, name in enumerate(("ant", "bee")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 128, (256, 256, 3)) + 127 * (np.arange(3) == place)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_state_dict_of_torchvision_becomes_an_int8_artifact(architecture, pictures, tmp_path):
    weights = tmp_path / f"{architecture}.pth"
    torch.save(networks.stock("torchvision", architecture, 2).state_dict(), weights)
    job = {
        "name": architecture,
        "model": str(weights),
        "data": {"imagefolder": {"root": str(pictures)}},
        "stages": [{"prune": {"ratio": 0.25}}, "fuse", {"quantize": {"calibration_images": 16}}],
        "export": "onnx",
        "prove": "ends",
        "verify": {"min_sqnr_db": 10},
        "benchmark": False,
    }
    report = pipeline.run(recipe.parse(job), tmp_path / "out")
    assert report.model == f"torchvision {architecture}, 2 classes"
    last = report.artifacts[-1]
    blocks, convs = {"resnet18": (8, 20), "resnet50": (16, 53)}[architecture]
    for op, count in {"conv": convs, "add": blocks, "linear": 1}.items():
        assert (last.precision.int8_share(op).correct, last.precision.int8_share(op).total) == (count, count)
    assert last.size_bytes < 0.3 * report.artifacts[0].size_bytes
    pruned = checkpoint.load(tmp_path / "out" / "stages" / "01-prune.safetensors")
    assert graph.capture(pruned, (3, 224, 224))
    assert artifact.open_artifact(tmp_path / "out" / last.folder).manifest.model.classes == 2
