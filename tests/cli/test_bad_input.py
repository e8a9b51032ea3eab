"""Whatever comes in broken: the right exit code, one sentence of fact, one of remedy, and nothing half-written."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rescompress import artifact, checkpoint, models
from rescompress.cli import guarded
from rescompress.pipeline.folder import RunFolder
from tests.cli.conftest import Said
from tests.jobs import command, litter, start, tiny, write

REASONS = {
    2: "RecipeError UsageError",
    4: "InputRefused",
    7: "BackendMissing",
    9: "RunLocked",
}


@dataclass(frozen=True)
class World:
    """Good things to spoil, and a folder to put spoilt ones into."""

    folder: Path
    trained: Path
    artifact: Path

    @property
    def out(self) -> Path:
        """Where a command would write to."""
        return self.folder / "out"

    def recipe(self, **changes: Any) -> Path:
        return write(self.folder / "recipe.yaml", tiny(**changes))

    def text(self, text: str | bytes, name: str = "recipe.yaml") -> Path:
        (self.folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return self.folder / name

    def state(self, change: Callable[[dict[str, torch.Tensor]], None], suffix: str = ".pth") -> Path:
        """The trained weights with a change, as a plain state dict."""
        state = load_file(self.trained)
        change(state)
        torch.save(state, self.folder / f"spoilt{suffix}")
        return self.folder / f"spoilt{suffix}"

    def cut(self, file: Path, size: int) -> Path:
        """The beginning of a file."""
        (self.folder / f"cut{file.suffix}").write_bytes(file.read_bytes()[:size])
        return self.folder / f"cut{file.suffix}"

    def spoilt(self, spoil: Callable[[Path], Any]) -> Path:
        """A copy of the artifact with a change."""
        folder = shutil.copytree(self.artifact, self.folder / "artifact")
        spoil(folder)
        return folder

    def pictures(self, classes: int, count: int = 20) -> str:
        """A data source in folders."""
        for split in ("train", "val"):
            for name in "abcdefghijkl"[:classes]:
                (self.folder / "pictures" / split / name).mkdir(parents=True)
                for number in range(count):
                    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(
                        self.folder / "pictures" / split / name / f"{number}.png"
                    )
        return f"{{imagefolder: {{root: {self.folder / 'pictures'}}}}}"

    def other_model(self) -> Path:
        """A checkpoint that tells four classes apart."""
        checkpoint.save(models.build(models.spec("cifar", "resnet8", 4)), self.folder / "four.safetensors")
        return self.folder / "four.safetensors"


@pytest.fixture
def world(tmp_path, trained, finished) -> World:
    return World(tmp_path, trained, finished[0] / "artifacts" / "onnxruntime" / "05-quantize")


def with_nan(state: dict[str, torch.Tensor]) -> None:
    state["conv1.weight"][0, 0, 0, 0] = float("nan")


def nan_of_our_own(world: World) -> Path:
    state = load_file(world.trained)
    with_nan(state)
    with safe_open(world.trained, "pt") as file:
        save_file(state, world.folder / "nan.safetensors", file.metadata())
    return world.folder / "nan.safetensors"


def edit_manifest(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))

    return edit


def append(folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")


def stages(*steps: Any) -> Callable[[World], tuple[Any, ...]]:
    return lambda world: ("run", world.recipe(stages=list(steps)))


def says(text: str | bytes) -> Callable[[World], tuple[Any, ...]]:
    return lambda world: ("run", world.text(text))


def field(**changes: Any) -> Callable[[World], tuple[Any, ...]]:
    return lambda world: ("run", world.recipe(**changes))


def override(text: str) -> Callable[[World], tuple[Any, ...]]:
    return lambda world: ("run", world.recipe(), "--set", text)


Words = Callable[[World], tuple[Any, ...]]
CASES: dict[str, tuple[int, str, Words]] = {
    # knobs
    "unknown knob in the recipe": (2, "prune has no knob 'ration'", stages({"prune": {"ration": 0.3}})),
    "unknown flag": (2, "No such option '--ration'", lambda w: ("prune", w.trained, "--ration", 0.3)),
    "knob out of range in the recipe": (2, "prune: ratio must be less than 1", stages({"prune": {"ratio": 1.5}})),
    "knob out of range on the command line": (2, "greater than 0", lambda w: ("prune", w.trained, "--ratio", 0)),
    "knob of another type": (2, "ratio must be a valid number", lambda w: ("prune", w.trained, "--ratio", "much")),
    "knob that is not a number": (2, "ratio must be", stages({"prune": {"ratio": float("nan")}})),
    "knob out of range in a group": (2, "epochs", stages({"fit": {"schedule": {"epochs": 0}}})),
    "unknown knob in a group": (2, "epoch", stages({"fit": {"schedule": {"epoch": 1}}})),
    "unknown importance": (2, "no 'l7' among the importance", stages({"prune": {"importance": "l7"}})),
    "unknown knob of an observer": (2, "percentile has no knob", stages("fuse", {"quantize": {"observer": {"percentile": {"p": 9}}}})),
    "unknown precision": (2, "precision", lambda w: ("quantize", w.trained, "--precision", "int3", "--data", "digits")),
    "no model": (2, "Missing argument 'MODEL'", lambda w: ("prune",)),
    "value that is no YAML on the command line": (2, "can't be read", lambda w: ("prune", w.trained, "--ratio", "[")),
    "one class": (2, "classes", lambda w: ("inspect", w.trained, "--family", "cifar", "--architecture", "resnet8", "--classes", 1)),
    "model described in part": (2, "in part", lambda w: ("inspect", w.trained, "--family", "cifar")),
    "batch of none for verify": (2, "batch must be", lambda w: ("verify", w.artifact, "--batch", 0)),
    "one launch": (2, "launches must be", lambda w: ("benchmark", w.artifact, "--launches", 1)),
    # recipes
    "no such recipe": (2, "no recipe digits_resnet2", lambda w: ("run", "digits_resnet2")),
    "recipe that is a folder": (2, "no recipe", lambda w: ("run", w.folder)),
    "recipe that is no mapping": (2, "holds no mapping", says("- prune\n- fuse\n")),
    "empty recipe": (2, "holds no mapping", says("")),
    "recipe that is no YAML": (2, "is no YAML", says("name: [\n  a\nb: }")),
    "recipe that is not text": (2, "is no YAML", says(b"\xff\xfe\x00\x01")),
    "recipe with a Python object": (2, "is no YAML", says("name: !!python/object/apply:os.system ['true']\n")),
    "recipe without a model": (2, "needs the knob 'model'", says("name: a\n")),
    "recipe with an unknown key": (2, "no knob 'stage'", says("name: a\nmodel: b\nstage: []\n")),
    "recipe whose name leads elsewhere": (2, "name must", field(name="../a")),
    "recipe whose keys are numbers": (2, "1", says("name: a\nmodel: b\n1: 2\n")),
    "stages that are no list": (2, "stages", field(stages={"prune": {}})),
    "stages that are a name": (2, "stages", field(stages="fuse")),
    "stage that is a number": (2, "5", stages(5)),
    "stage with a number for its knobs": (2, "prune", stages({"prune": 0.3})),
    "two stages in one": (2, "names no single choice", stages({"prune": {}, "fuse": {}})),
    "unknown stage": (2, "no stage 'prun'", stages("prun")),
    "fuse before prune": (2, "prune stands behind fuse", stages("fuse", "prune")),
    "quantize before fuse": (2, "fuse", stages("quantize", "fuse")),
    "quantize without fuse": (2, "quantize needs fuse", stages("quantize")),
    "two quantizes": (2, "twice", stages("fuse", "quantize", "quantize")),
    "unknown data source": (2, "no 'digit' among the data", field(data="digit")),
    "data that is a number": (2, "single choice", field(data=5)),
    "data with a number for its knobs": (2, "digits", field(data={"digits": 5})),
    "unknown target": (2, "no 'onx' among the backends", field(export="onx")),
    "target that is a number": (2, "5", field(export=5)),
    "verify that is a number": (2, "verify must be a mapping", field(verify=5)),
    "benchmark that is true": (2, "benchmark", field(benchmark=True)),
    "model that is a number": (2, "model", field(model=5)),
    "model without anything": (2, "no model", field(model={})),
    "unknown family": (2, "no 'cifer' among the models", field(model={"family": "cifer", "architecture": "resnet8", "classes": 10})),
    "unknown architecture": (2, "no 'resnet9'", field(model={"family": "cifar", "architecture": "resnet9", "classes": 10})),
    "unknown argument of a family": (2, "shortcuts", field(model={"family": "cifar", "architecture": "resnet8", "classes": 10, "arguments": {"shortcuts": "A"}})),
    "negative seed": (2, "seed must be", override("seed=-1")),
    "override of nothing": (2, "sets nothing", override("seed")),
    "override of an unknown stage": (2, "no 'prun' in the list", override("stages.prun.ratio=0.5")),
    "override of a stage by a number too large": (2, "no '9' in the list", override("stages.9.ratio=0.5")),
    "override that is no YAML": (2, "seed", override("seed=[")),
    "override below a number": (2, "seed", override("seed.a=1")),
    "data that is no YAML on the command line": (2, "imagefolder", lambda w: ("quantize", w.trained, "--data", "{imagefolder: [")),
    "data that is no YAML for verify": (2, "imagefolder", lambda w: ("verify", w.artifact, "--data", "{imagefolder: [")),
    "no data for a stage that needs it": (2, "fit needs images", lambda w: ("fit", w.trained, "--epochs", 1)),
    # models
    "no such checkpoint": (4, "no file", lambda w: ("inspect", w.folder / "none.pth")),
    "checkpoint that is a folder": (4, "no file", lambda w: ("inspect", w.folder)),
    "checkpoint of another kind": (4, "no checkpoint that rescompress reads", lambda w: ("inspect", w.text("a", "model.h5"))),
    "truncated safetensors": (4, "truncated or corrupt", lambda w: ("quantize", w.cut(w.trained, 20000), "--data", "digits")),
    "empty safetensors": (4, "truncated or corrupt", lambda w: ("prune", w.cut(w.trained, 0))),
    "truncated state dict": (4, "can't be read as a plain state dict", lambda w: ("prune", w.cut(w.state(dict), 20000))),
    "empty state dict": (4, "can't be read as a plain state dict", lambda w: ("prune", w.cut(w.state(dict), 0))),
    "state dict of nothing": (4, "no tensors", lambda w: ("prune", w.state(dict.clear))),
    "state dict with a missing tensor": (4, "fit no network", lambda w: ("prune", w.state(lambda s: s.pop("linear.bias")))),
    "state dict without a classifier": (4, "no classifier", lambda w: ("prune", w.state(lambda s: s.pop("linear.weight")))),
    "state dict of another architecture": (4, "doesn't fit cifar resnet20", lambda w: ("prune", w.state(dict), "--family", "cifar", "--architecture", "resnet20", "--classes", 10)),
    "state dict of another architecture to quantize": (4, "doesn't fit cifar resnet20", lambda w: ("quantize", w.state(dict), "--data", "digits", "--family", "cifar", "--architecture", "resnet20", "--classes", 10)),
    "checkpoint of another architecture": (4, "not cifar resnet20", lambda w: ("inspect", w.trained, "--family", "cifar", "--architecture", "resnet20", "--classes", 10)),
    "not a number in a state dict": (4, "NaN or infinite values in conv1.weight", lambda w: ("prune", w.state(with_nan))),
    "not a number in a checkpoint": (4, "NaN or infinite values in conv1.weight", lambda w: ("prune", nan_of_our_own(w))),
    "teacher that is not there": (4, "no file", lambda w: ("distill", w.trained, "--data", "digits", "--teacher", "none.pth")),
    # data
    "another number of classes": (4, "tells 10 classes apart, but imagefolder has 2", lambda w: ("quantize", w.trained, "--data", w.pictures(2, 4))),
    "data root that is not there": (4, "no folder", lambda w: ("quantize", w.trained, "--data", f"{{imagefolder: {{root: {w.folder / 'none'}}}}}")),
    "empty data root": (4, "no folder train", lambda w: ("quantize", w.trained, "--data", f"{{imagefolder: {{root: {w.folder}}}}}")),
    "empty class folder": (4, "holds no image", lambda w: ("quantize", w.trained, "--data", w.pictures(10, 0))),
    "too few images": (4, "at least 16 images", lambda w: ("quantize", w.trained, "--data", w.pictures(10, 2))),
    # places
    "file in the place of the folder": (4, "can't be written", lambda w: ("prune", w.trained, "-o", w.text("a", "file"))),
    "file in the place of its parent": (4, "can't be written", lambda w: ("prune", w.trained, "-o", w.text("a", "file") / "out")),
    "place that the system forbids": (4, "can't be written", lambda w: ("prune", w.trained, "-o", "/proc/rescompress")),
    "report in a place that the system forbids": (4, "can't be written", lambda w: ("report", w.artifact.parents[2], "-o", "/proc/rescompress")),
    "report in the place of a file": (4, "can't be written", lambda w: ("report", w.artifact.parents[2], "-o", w.text("a", "file"))),
    # artifacts and reports
    "artifact that is not there": (4, "not an artifact", lambda w: ("verify", w.folder / "none")),
    "artifact that is a file": (4, "not an artifact", lambda w: ("verify", w.trained)),
    "artifact that is a run": (4, "not an artifact", lambda w: ("verify", w.artifact.parents[2])),
    "changed artifact for verify": (4, "was changed", lambda w: ("verify", w.spoilt(append), "--reference", w.trained)),
    "changed artifact for benchmark": (4, "was changed", lambda w: ("benchmark", w.artifact, w.spoilt(append))),
    "artifact without its file": (4, "missing", lambda w: ("verify", w.spoilt(lambda f: (f / "model.onnx").unlink()))),
    "artifact with files elsewhere": (4, "missing or was changed", lambda w: ("benchmark", w.spoilt(edit_manifest(files={"../x": "0"})))),
    "artifact with a broken manifest": (4, "can't be read", lambda w: ("verify", w.spoilt(lambda f: (f / "manifest.json").write_text("{")))),
    "artifact whose manifest lacks a field": (4, "can't be read", lambda w: ("verify", w.spoilt(lambda f: (f / "manifest.json").write_text("{}")))),
    "artifact of an unknown backend": (2, "no 'abacus' among the backends", lambda w: ("verify", w.spoilt(edit_manifest(backend="abacus")), "--reference", w.trained)),
    "artifact that no longer lies in its run": (2, "doesn't say", lambda w: ("verify", w.spoilt(lambda f: None))),
    "reference that is not there": (4, "no file", lambda w: ("verify", w.artifact, "--reference", "none.pth")),
    "reference with other classes": (4, "", lambda w: ("verify", w.artifact, "--reference", w.other_model())),
    "data with other classes for verify": (4, "10 classes", lambda w: ("verify", w.artifact, "--data", w.pictures(2, 4))),
    "report that is not there": (4, "can't be read", lambda w: ("report", w.folder / "none")),
    "report of a folder without one": (4, "can't be read", lambda w: ("report", w.folder)),
    "broken report": (4, "is not a report", lambda w: ("report", w.text('{"schema": "rescompress.report/1", ', "report.json"))),
    "report without its fields": (4, "is not a report", lambda w: ("report", w.text('{"schema": "rescompress.report/1"}', "report.json"))),
    "report of another schema": (4, "has the schema", lambda w: ("report", w.text('{"schema": "other/1"}', "report.json"))),
    "report that is a list": (4, "is not a report", lambda w: ("report", w.text("[]", "report.json"))),
}  # fmt: skip
WRITING = ("run", "fit", "prune", "distill", "fuse", "quantize", "export", "report")


LATE = ("no data for a stage that needs it", "teacher that is not there", "too few images")
"""Found out by a stage, when the baseline is in place already."""


def told(said: Said, code: int, fact: str, late: bool = False) -> None:
    """Two lines on standard error, the second of which says what to do."""
    assert said.code == code, said.err
    assert "Traceback" not in said.err
    lines = said.err.splitlines()
    if late:
        assert lines.pop(0).startswith("00-baseline: top-1")
    assert len(lines) == 2, said.err
    assert lines[0].startswith("error: ")
    assert fact in lines[0]
    assert len(lines[1]) > 4


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused(name, world, say, monkeypatch):
    code, fact, words = CASES[name]
    monkeypatch.chdir(world.folder)
    arguments = words(world)
    if arguments[0] in WRITING and "-o" not in arguments:
        arguments = (*arguments, "-o", world.out)
    before = set(world.folder.rglob("*"))
    said = say(*arguments, "--format", "json")
    told(said, code, fact, name in LATE)

    document = json.loads(said.out)
    assert set(document) == {"schema", "code", "kind", "fact", "remedy"}
    assert (document["schema"], document["code"]) == ("rescompress.error/1", code)
    assert document["kind"] in REASONS[code]
    assert said.err.endswith(f"error: {document['fact']}\n{document['remedy']}\n")

    assert litter(world.folder) == []
    left = {file.name for file in set(world.folder.rglob("*")) - before if file.is_file()}
    started = {".lock", "recipe.yaml", "environment.json", "00-baseline.safetensors", "00-baseline.json"}
    assert left <= (started if name in LATE else set())


@pytest.mark.parametrize("name", ["unknown flag", "unknown stage", "no such checkpoint", "broken report"])
def test_people_are_told_on_standard_error_only(name, world, say):
    code, fact, words = CASES[name]
    said = say(*words(world))
    told(said, code, fact)
    assert said.out == ""


@pytest.mark.parametrize("name", ["unknown stage", "no such checkpoint", "truncated safetensors"])
def test_debug_shows_the_traceback(name, world, say):
    code, fact, words = CASES[name]
    said = say(*words(world), "--debug")
    assert said.code == code
    assert said.err.startswith("Traceback (most recent call last):")
    assert fact in said.err.splitlines()[-2]


def test_stage_that_refuses_keeps_what_came_before(finished, world, say):
    quantized = finished[0] / "stages" / "05-quantize.safetensors"
    said = say("quantize", quantized, "--data", "digits", "-o", world.out, "--format", "quiet")
    told(said, 4, "quantized already")
    assert (world.out / "stages" / "00-baseline.json").exists()
    assert not (world.out / "report.json").exists()
    assert litter(world.out) == []


def test_two_runs_in_one_folder(world, say):
    with RunFolder(world.out, "first").locked():
        said = say("prune", world.trained, "-o", world.out)
    told(said, 9, f"is in use by process {os.getpid()}")
    assert "choose another folder with -o" in said.err
    assert not (world.out / "stages").exists()


@pytest.mark.parametrize("words", [("run", "RECIPE", "-o", "out"), ("export", "MODEL", "--to", "onnx", "-o", "out")])
def test_missing_backend_is_named_with_its_pip_line(words, world, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['onnxruntime'] = None\n")
    put = {"RECIPE": world.recipe(model=str(world.trained), stages=[]), "MODEL": world.trained}
    said = command(*(put.get(word, word) for word in words), "--format", "json", folder=tmp_path, path=tmp_path)
    document = json.loads(said.stdout)
    assert (said.returncode, document["code"], document["kind"]) == (7, 7, "BackendMissing")
    assert "pip install 'rescompress[onnx]'" in document["remedy"]
    assert said.stderr == f"error: {document['fact']}\n{document['remedy']}\n"
    assert not (tmp_path / "out").exists()


def test_doctor_tells_how_to_get_a_missing_backend(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['onnxruntime'] = None\n")
    said = command("doctor", "--format", "json", path=tmp_path)
    (target,) = (row for row in json.loads(said.stdout)["targets"] if row["name"] == "onnxruntime")
    assert target == {
        "name": "onnxruntime",
        "usable": False,
        "versions": {},
        "remedy": "pip install 'rescompress[onnx]'",
    }


def test_missing_demo_packages_are_named_too(world, say, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    said = say("quantize", world.trained, "--data", "digits", "-o", world.out)
    told(said, 7, "scikit-learn")
    assert "pip install 'rescompress[demo]'" in said.err


def test_interruption_is_no_bug(capfd):
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert guarded(interrupted, ["run"]) == 130
    assert capfd.readouterr().err.splitlines()[-1] == "What was finished is kept; run it again to go on."


def test_bug_shows_its_traceback_and_asks_for_a_report(capfd):
    assert guarded(lambda: 1 / 0, ["run", "--format", "json"]) == 1
    out, err = capfd.readouterr()
    assert "Traceback" in err
    assert json.loads(out)["kind"] == "Bug"


def test_reader_that_leaves_early_is_no_error():
    """As in ``rescompress schema | head -1``."""
    with start("schema") as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_word_json_elsewhere_is_not_the_form(say):
    assert say("run", "json").out == ""


def test_artifact_of_a_state_dict_is_never_unpickled(world, say):
    """A pickled class in a state dict is refused by its name, and is not made."""

    class Boom:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(world.folder / "boom"),)

    torch.save({"a": Boom()}, world.folder / "boom.pth")
    told(say("inspect", world.folder / "boom.pth"), 4, "can't be read as a plain state dict")
    assert not (world.folder / "boom").exists()


def test_yaml_tag_is_never_obeyed(world, say):
    file = world.text(f"name: !!python/object/apply:os.mkdir ['{world.folder / 'boom'}']\n")
    told(say("run", file), 2, "is no YAML")
    assert not (world.folder / "boom").exists()
    assert yaml.safe_load(write(world.folder / "x.yaml", {"a": 1}).read_text()) == {"a": 1}


def test_open_artifact_agrees_that_the_original_is_sound(world):
    assert artifact.open_artifact(world.artifact).manifest.precision == "int8"
