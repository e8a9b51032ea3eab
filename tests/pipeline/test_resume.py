"""A run goes on where it was killed, and does again only what a change of the recipe reaches."""

import random
import shutil
import signal
from pathlib import Path

import pytest

from rescompress import checkpoint, pipeline, recipe
from rescompress.artifact import sha256_of
from rescompress.context import Context
from rescompress.quantization import calibrate
from tests.jobs import LABELS, TINY, litter, stamps, tiny
from tests.pipeline.conftest import BEFORE, KILLS, SEEN, survive

STAGES = [f"stages/{label}.{kind}" for label in LABELS for kind in ("safetensors", "json")]
ROWS = [f"rows/onnxruntime-{label}.json" for label in (LABELS[0], LABELS[-1])]
QUANTIZED = {"stages/05-quantize.safetensors", "stages/05-quantize.json", "rows/network.json"}
ARTIFACTS = [f"artifacts/onnxruntime/{label}/model.onnx" for label in (LABELS[0], LABELS[-1])]


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A finished run to go on with, as old as the original."""
    return shutil.copytree(finished[0], tmp_path / "copy")


def again(folder: Path, **changes) -> set[str]:
    """Run a changed job in a folder; gives the files that were written or removed, reports aside."""
    before = stamps(folder)
    pipeline.run(recipe.parse(tiny(**{"benchmark": False, "max_accuracy_drop": None, **changes})), folder)
    after = stamps(folder)
    assert not litter(folder)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return {name for name in changed if "/" in name}


def test_it_was_really_killed(survivor):
    assert survivor.codes == [-signal.SIGKILL] * len(KILLS)
    assert any(name.startswith("stages/.02-prune.safetensors.") for seen in survivor.litter for name in seen)
    assert any(name.startswith("artifacts/onnxruntime/.05-quantize.") for seen in survivor.litter for name in seen)


@pytest.mark.parametrize("name", [*STAGES, *ROWS, *ARTIFACTS])
def test_killed_run_leaves_the_bytes_of_an_undisturbed_one(name, survivor, finished):
    assert (survivor.folder / name).read_bytes() == (finished[0] / name).read_bytes()


def test_killed_run_leaves_the_files_of_an_undisturbed_one(survivor, finished):
    assert stamps(survivor.folder).keys() == stamps(finished[0]).keys()
    assert litter(survivor.folder) == []


def test_what_was_finished_is_never_done_again(survivor):
    end = stamps(survivor.folder)
    kept = []
    for seen in survivor.stamps:
        done = [name.removesuffix(".json") for name in seen if name.startswith("stages/") and name.endswith(".json")]
        kept += [f"{name}.{kind}" for name in done if "/." not in name for kind in ("json", "safetensors")]
        kept += [name for name in seen if name.startswith(("rows/onnx", "artifacts/onnxruntime/0"))]
        assert {name: seen[name] for name in kept if name in seen} == {name: end[name] for name in kept if name in seen}
    assert {"stages/00-baseline.json", "stages/05-quantize.safetensors", ROWS[0], ARTIFACTS[0]} <= set(kept)


def test_second_run_in_a_folder_is_refused_and_names_the_first(survivor):
    assert survivor.refused.exit_code == 9
    assert f"is in use by process {survivor.owner}." in survivor.refused.fact


def test_changed_observer_quantizes_again_and_nothing_else(copy):
    stages = [*TINY["stages"][:-1], {"quantize": {"observer": "percentile", "calibration_images": 64}}]
    assert again(copy, stages=stages, export=None) == QUANTIZED


def test_a_calibration_file_that_holds_something_else_quantizes_again(copy, tmp_path):
    file, fused = tmp_path / "calibration.safetensors", checkpoint.load(copy / "stages" / "04-fuse.safetensors")
    ctx = Context.of(fused, "digits")
    stages = [*TINY["stages"][:-1], {"quantize": {"calibration": str(file)}}]
    calibrate(fused, ctx, file, calibration_images=32)
    assert again(copy, stages=stages, export=None) == QUANTIZED
    assert again(copy, stages=stages, export=None) == set()
    file.unlink()
    calibrate(fused, ctx, file, calibration_images=64)
    assert again(copy, stages=stages, export=None) == QUANTIZED


def test_changed_ratio_prunes_again_and_drops_what_came_after(copy):
    stages = [TINY["stages"][0], {"prune": {"ratio": 0.5, "round_to": 8}}, "fuse"]
    changed = again(copy, stages=stages, export=None)
    assert not any("00-baseline" in name or "01-fit" in name for name in changed)
    assert {path.name for path in (copy / "stages").glob("*.safetensors")} == {
        "00-baseline.safetensors",
        "01-fit.safetensors",
        "02-prune.safetensors",
        "03-fuse.safetensors",
    }
    assert {"stages/02-prune.safetensors", "stages/02-prune.json", "stages/03-fuse.json"} <= changed


def test_changed_seed_starts_anew(copy):
    changed = again(copy, seed=1, stages=[], export=None)
    assert {"stages/00-baseline.safetensors", "stages/00-baseline.json"} <= changed


def test_unchanged_job_runs_nothing(copy):
    assert again(copy) == set()


def test_damaged_checkpoint_is_made_again(copy):
    file = copy / "stages" / "02-prune.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert again(copy, export=None) == {"stages/02-prune.safetensors", "stages/02-prune.json"}
    assert file.read_bytes() == good


def test_damaged_row_and_artifact_are_made_again(copy):
    good = {name: (copy / name).read_bytes() for name in (ROWS[0], ARTIFACTS[0])}
    (copy / ROWS[0]).write_text('{"key": "')
    (copy / ARTIFACTS[0]).write_bytes(b"")
    beside = {f"artifacts/onnxruntime/00-baseline/{file}" for file in ("manifest.json", "verified.json")}
    assert again(copy) == {ROWS[0], ARTIFACTS[0], *beside}
    assert {name: (copy / name).read_bytes() for name in good} == good


def test_what_a_killed_process_left_half_written_is_cleared_away(copy):
    """Wherever a file or an artifact is first written under a hidden name beside its place."""
    for place in ("stages/.01-fit.json.x", "rows/.benchmark.json.x", ".recipe.yaml.x", ".report.html.x"):
        (copy / place).write_bytes(b"half")
    half = copy / "artifacts" / "onnxruntime" / ".05-quantize.x"
    half.mkdir()
    (half / "model.onnx").write_bytes(b"half")
    again(copy)
    assert litter(copy) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_other_times_it_still_leaves_the_same_bytes(seed, finished, tmp_path):
    """Half of the kills once a stage is seen, half of them in the middle of writing; which ones is drawn at random."""
    random_ = random.Random(seed)
    seen = [(SEEN, f"stages/{label}.json") for label in LABELS]
    before = [*STAGES, *ROWS, *(str(Path(name).parent) for name in ARTIFACTS), "recipe.yaml", "report.json"]
    drawn = random_.sample([*seen, *((BEFORE, name) for name in before)], 5)
    ended = survive(tmp_path, sorted(drawn, key=lambda kill: [*STAGES, *before, *ROWS].index(kill[1])))
    for name in (*STAGES, *ROWS, *ARTIFACTS):
        assert (ended.folder / name).read_bytes() == (finished[0] / name).read_bytes()


def test_stages_of_a_sister_run_are_taken_over(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0], tmp_path / "runs" / f"tiny-{recipe.parse(TINY).digest}")
    job = recipe.parse(tiny(stages=TINY["stages"][:4], export=None, benchmark=False))
    report = pipeline.run(job)
    assert "top-1" not in capsys.readouterr().err  # no stage ran
    folder = tmp_path / "runs" / f"tiny-{job.digest}"
    assert report.stages == finished[1].stages[:5]
    for row in report.stages:
        assert sha256_of(folder / "stages" / row.checkpoint) == row.sha256
