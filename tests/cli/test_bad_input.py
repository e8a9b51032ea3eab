"""Whatever comes in broken: the right exit code, one sentence of fact, one of remedy, and nothing half-written."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rescompress import checkpoint, models
from rescompress.cli import guarded
from rescompress.pipeline.folder import RunFolder
from tests.cli.conftest import Said
from tests.jobs import command, litter, start, tiny, write

KINDS = {2: ("RecipeError", "UsageError"), 4: ("InputRefused",), 7: ("BackendMissing",)}
WRITING = ("run", "fit", "prune", "factorize", "distill", "fuse", "quantize", "export", "report")
ALL_OF_RESNET20 = "--family cifar --architecture resnet20 --classes 10"


@dataclass(frozen=True)
class World:
    """Good things to spoil, and a folder to put spoilt ones into."""

    folder: Path
    trained: Path
    run: Path

    @property
    def artifact(self) -> Path:
        return self.run / "artifacts" / "onnxruntime" / "05-quantize"

    def text(self, name: str, content: str | bytes) -> Path:
        (self.folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return self.folder / name

    def cut(self, file: Path, size: int) -> Path:
        """The beginning of a file."""
        return self.text(f"cut{file.suffix}", file.read_bytes()[:size])

    def state(self, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
        """The trained weights with a change, as a plain state dict."""
        state = load_file(self.trained)
        change(state)
        torch.save(state, self.folder / "spoilt.pth")
        return self.folder / "spoilt.pth"

    def copy(self, spoil: Callable[[Path], object]) -> Path:
        """A copy of the artifact with a change."""
        folder = shutil.copytree(self.artifact, self.folder / "artifact")
        spoil(folder)
        return folder

    def pictures(self, classes: int, count: int) -> str:
        """A data source in folders."""
        root = self.folder / "pictures"
        for split in ("train", "val"):
            for name in "abcdefghij"[:classes]:
                (root / split / name).mkdir(parents=True)
                for number in range(count):
                    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(root / split / name / f"{number}.png")
        return source(root)


def source(root: Path) -> str:
    return f"{{imagefolder: {{root: {root}}}}}"


def with_nan(state: dict[str, torch.Tensor]) -> None:
    state["conv1.weight"][0, 0, 0, 0] = float("nan")


def checkpoint_with_nan(world: World) -> Path:
    state = load_file(world.trained)
    with_nan(state)
    with safe_open(world.trained, "pt") as file:
        save_file(state, world.folder / "nan.safetensors", file.metadata())
    return world.folder / "nan.safetensors"


def checkpoint_of_four_classes(world: World) -> Path:
    checkpoint.save(models.build(models.spec("cifar", "resnet8", 4)), world.folder / "four.safetensors")
    return world.folder / "four.safetensors"


def manifest(text: str | None = None, **changes: Any) -> Callable[[Path], object]:
    """Write another manifest, or change entries of it."""

    def edit(folder: Path) -> None:
        whole = json.loads((folder / "manifest.json").read_bytes())
        (folder / "manifest.json").write_text(json.dumps({**whole, **changes}) if text is None else text)

    return edit


def append(folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")


SPOILT: dict[str, Callable[[World], object]] = {
    "here": lambda world: world.folder,
    "trained": lambda world: world.trained,
    "fused": lambda world: world.run / "stages" / "04-fuse.safetensors",
    "artifact": lambda world: world.artifact,
    "run": lambda world: world.run,
    "file": lambda world: world.text("file", "a"),
    "other_kind": lambda world: world.text("model.h5", "a"),
    "truncated": lambda world: world.cut(world.trained, 20_000),
    "empty": lambda world: world.cut(world.trained, 0),
    "state": lambda world: world.state(dict),
    "truncated_state": lambda world: world.cut(world.state(dict), 20_000),
    "empty_state": lambda world: world.cut(world.state(dict), 0),
    "no_tensors": lambda world: world.state(dict.clear),
    "no_bias": lambda world: world.state(lambda state: state.pop("linear.bias")),
    "no_classifier": lambda world: world.state(lambda state: state.pop("linear.weight")),
    "nan_state": lambda world: world.state(with_nan),
    "nan": checkpoint_with_nan,
    "four_classes": checkpoint_of_four_classes,
    "two_pictures": lambda world: world.pictures(2, 4),
    "few_pictures": lambda world: world.pictures(10, 2),
    "no_pictures": lambda world: world.pictures(10, 0),
    "empty_root": lambda world: source(world.folder),
    "no_root": lambda world: source(world.folder / "none"),
    "changed": lambda world: world.copy(append),
    "without_file": lambda world: world.copy(lambda folder: (folder / "model.onnx").unlink()),
    "files_elsewhere": lambda world: world.copy(manifest(files={"../x": "0"})),
    "broken_manifest": lambda world: world.copy(manifest("{")),
    "bare_manifest": lambda world: world.copy(manifest("{}")),
    "unknown_backend": lambda world: world.copy(manifest(backend="abacus")),
    "moved": lambda world: world.copy(lambda folder: None),
    "broken_report": lambda world: world.text("report.json", '{"schema": "rescompress.report/1", '),
    "bare_report": lambda world: world.text("report.json", '{"schema": "rescompress.report/1"}'),
    "other_report": lambda world: world.text("report.json", '{"schema": "other/1"}'),
    "list_report": lambda world: world.text("report.json", "[]"),
}
"""What may stand in braces in a command line."""

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "unknown knob": ("prune has no knob 'ration'", {"stages": [{"prune": {"ration": 0.3}}]}),
    "knob out of range": ("prune: ratio must be less than 1", {"stages": [{"prune": {"ratio": 1.5}}]}),
    "knob that is not a number": ("ratio must be", {"stages": [{"prune": {"ratio": float("nan")}}]}),
    "knob out of range in a group": ("epochs", {"stages": [{"fit": {"schedule": {"epochs": 0}}}]}),
    "unknown knob in a group": ("epoch", {"stages": [{"fit": {"schedule": {"epoch": 1}}}]}),
    "unknown importance": ("no 'l7' among the importance", {"stages": [{"prune": {"importance": "l7"}}]}),
    "unknown knob of a loss": ("logits has no knob", {"stages": [{"distill": {"loss": {"logits": {"p": 9}}}}]}),
    "name that leads elsewhere": ("name must", {"name": "../a"}),
    "stages that are a mapping": ("stages", {"stages": {"prune": {}}}),
    "stages that are a name": ("stages", {"stages": "fuse"}),
    "stage that is a number": ("5", {"stages": [5]}),
    "stage with a number for its knobs": ("prune", {"stages": [{"prune": 0.3}]}),
    "two stages in one": ("names no single choice", {"stages": [{"prune": {}, "fuse": {}}]}),
    "unknown stage": ("no stage 'prun'", {"stages": ["prun"]}),
    "fuse before prune": ("prune stands behind fuse", {"stages": ["fuse", "prune"]}),
    "quantize before fuse": ("fuse", {"stages": ["quantize", "fuse"]}),
    "quantize without fuse": ("quantize needs fuse", {"stages": ["quantize"]}),
    "quantize twice": ("twice", {"stages": ["fuse", "quantize", "quantize"]}),
    "unknown data source": ("no 'digit' among the data", {"data": "digit"}),
    "data that is a number": ("single choice", {"data": 5}),
    "data with a number for its knobs": ("digits", {"data": {"digits": 5}}),
    "unknown target": ("no 'onx' among the backends", {"export": "onx"}),
    "target that is a number": ("5", {"export": 5}),
    "verify that is a number": ("verify must be a mapping", {"verify": 5}),
    "benchmark that is true": ("benchmark", {"benchmark": True}),
    "model that is a number": ("model", {"model": 5}),
    "model without anything": ("no model", {"model": {}}),
    "unknown family": ("no 'cifer' among the models", {"model": {**tiny()["model"], "family": "cifer"}}),
    "unknown architecture": ("no 'resnet9'", {"model": {**tiny()["model"], "architecture": "resnet9"}}),
    "unknown argument": ("shortcuts", {"model": {**tiny()["model"], "arguments": {"shortcuts": "A"}}}),
}
"""Changes of the tiny job, and what must be said of them."""

TEXTS: dict[str, tuple[str, str | bytes]] = {
    "recipe that is a list": ("holds no mapping", "- prune\n- fuse\n"),
    "empty recipe": ("holds no mapping", ""),
    "recipe that is no YAML": ("is no YAML", "name: [\n  a\nb: }"),
    "recipe that is no text": ("is no YAML", b"\xff\xfe\x00\x01"),
    "recipe with a Python object": ("is no YAML", "name: !!python/object/apply:os.system ['true']\n"),
    "recipe without a model": ("needs the knob 'model'", "name: a\n"),
    "recipe with an unknown key": ("no knob 'stage'", "name: a\nmodel: b\nstage: []\n"),
    "recipe with a number for a key": ("1", "name: a\nmodel: b\n1: 2\n"),
}
"""Whole recipe files, and what must be said of them."""

LINES: dict[str, tuple[int, str, str]] = {
    "unknown flag": (2, "No such option '--ration'", "prune {trained} --ration 0.3"),
    "flag out of range": (2, "greater than 0", "prune {trained} --ratio 0"),
    "flag of another type": (2, "ratio must be a valid number", "prune {trained} --ratio much"),
    "flag that is no YAML": (2, "can't be read", "prune {trained} --ratio ["),
    "unknown precision": (2, "precision", "quantize {trained} --precision int3 --data digits"),
    "no model": (2, "Missing argument 'MODEL'", "prune"),
    "one class": (2, "classes", "inspect {trained} --family cifar --architecture resnet8 --classes 1"),
    "wrong guess of the architecture": (4, "not architecture resnet20", "inspect {trained} --architecture resnet20"),
    "no such function": (2, "can't be imported", "inspect {trained} --builder no.such:thing"),
    "batch of none": (2, "batch must be", "verify {artifact} --batch 0"),
    "one launch": (2, "launches must be", "benchmark {artifact} --launches 1"),
    "no such recipe": (2, "no recipe digits_resnet2", "run digits_resnet2"),
    "recipe that is a folder": (2, "no recipe", "run {here}"),
    "negative seed": (2, "seed must be", "run {recipe} --set seed=-1"),
    "override of nothing": (2, "sets nothing", "run {recipe} --set seed"),
    "override of an unknown stage": (2, "no 'prun' in the list", "run {recipe} --set stages.prun.ratio=0.5"),
    "override of a stage too far": (2, "no '9' in the list", "run {recipe} --set stages.9.ratio=0.5"),
    "override that is no YAML": (2, "seed", "run {recipe} --set seed=["),
    "override below a number": (2, "seed", "run {recipe} --set seed.a=1"),
    "data that is no YAML": (2, "imagefolder", "quantize {trained} --data '{imagefolder: ['"),
    "data that is no YAML for verify": (2, "imagefolder", "verify {artifact} --data '{imagefolder: ['"),
    "no data where it is needed": (2, "fit needs images", "fit {trained} --epochs 1"),
    "no such checkpoint": (4, "no file", "inspect none.pth"),
    "checkpoint that is a folder": (4, "holds no config.json", "inspect {here}"),
    "checkpoint of another kind": (4, "no HDF5 file", "inspect {other_kind}"),
    "truncated checkpoint": (4, "truncated or corrupt", "quantize {truncated} --data digits"),
    "empty checkpoint": (4, "truncated or corrupt", "prune {empty}"),
    "truncated state dict": (4, "is no plain state dict", "prune {truncated_state}"),
    "empty state dict": (4, "is no plain state dict", "prune {empty_state}"),
    "state dict of nothing": (4, "no tensors", "prune {no_tensors}"),
    "state dict without a bias": (4, "fit no network", "prune {no_bias}"),
    "state dict without a classifier": (4, "fit no network", "prune {no_classifier}"),
    "state dict of another network": (4, "doesn't fit cifar resnet20", f"prune {{state}} {ALL_OF_RESNET20}"),
    "checkpoint of another network": (4, "not cifar resnet20", f"inspect {{trained}} {ALL_OF_RESNET20}"),
    "NaN in a state dict": (4, "NaN or infinite values in conv1.weight", "prune {nan_state}"),
    "NaN in a checkpoint": (4, "NaN or infinite values in conv1.weight", "prune {nan}"),
    "no such teacher": (4, "no file", "distill {trained} --data digits --teacher none.pth"),
    "other classes": (4, "10 classes apart, but imagefolder has 2", "quantize {trained} --data '{two_pictures}'"),
    "no such root": (4, "no folder", "quantize {trained} --data '{no_root}'"),
    "empty root": (4, "no folder train", "quantize {trained} --data '{empty_root}'"),
    "empty class": (4, "holds no image", "quantize {trained} --data '{no_pictures}'"),
    "too few images": (4, "at least 16 images", "quantize {fused} --data '{few_pictures}'"),
    "file in the place of the folder": (4, "can't be written", "prune {trained} -o {file}"),
    "file in the place of its parent": (4, "can't be written", "prune {trained} -o {file}/out"),
    "place that the system forbids": (4, "can't be written", "prune {trained} -o /proc/rescompress"),
    "report where the system forbids": (4, "can't be written", "report {run} -o /proc/rescompress"),
    "report in the place of a file": (4, "can't be written", "report {run} -o {file}"),
    "no such artifact": (4, "not an artifact", "verify none"),
    "artifact that is a file": (4, "not an artifact", "verify {trained}"),
    "artifact that is a run": (4, "not an artifact", "verify {run}"),
    "changed artifact": (4, "was changed", "verify {changed} --reference {trained}"),
    "changed artifact to time": (4, "was changed", "benchmark {artifact} {changed}"),
    "artifact without its file": (4, "missing", "verify {without_file}"),
    "artifact with files elsewhere": (4, "list the file", "benchmark {files_elsewhere}"),
    "artifact with a broken manifest": (4, "can't be read", "verify {broken_manifest}"),
    "artifact with a bare manifest": (4, "can't be read", "verify {bare_manifest}"),
    "artifact of an unknown backend": (2, "no 'abacus'", "verify {unknown_backend} --reference {trained}"),
    "artifact that left its run": (2, "doesn't say", "verify {moved}"),
    "no such reference": (4, "no file", "verify {artifact} --reference none.pth"),
    "reference with other classes": (4, "the model 4", "verify {artifact} --reference {four_classes}"),
    "data with other classes": (4, "10 classes", "verify {artifact} --data '{two_pictures}'"),
    "no such report": (4, "can't be read", "report none"),
    "folder without a report": (4, "can't be read", "report {here}"),
    "broken report": (4, "is not a report", "report {broken_report}"),
    "report without its fields": (4, "is not a report", "report {bare_report}"),
    "report of another schema": (4, "has the schema", "report {other_report}"),
    "report that is a list": (4, "is not a report", "report {list_report}"),
    "broken report to compare": (4, "is not a report or a file of results", "compare {run} {broken_report}"),
    "nothing to compare with": (2, "nothing to compare with", "compare {run}"),
    "comparison where the system forbids": (4, "can't be written", "compare {run} {run} -o /proc/rescompress"),
    "rule without a limit": (2, "at character 5", "benchmark {artifact} {artifact} --fail-if p50>"),
    "baseline file that is none": (
        4,
        "is not a report",
        "benchmark {artifact} --fail-if p50>+5% --baseline-file {bare_report}",
    ),
}
"""Command lines with their exit codes, and what must be said of them."""
LATE = ("no data where it is needed", "no such teacher", "too few images")
"""Found out by a stage, when others are finished already."""


@pytest.fixture
def world(tmp_path, trained, finished, monkeypatch) -> World:
    monkeypatch.chdir(tmp_path)
    return World(tmp_path, trained, finished[0])


def words(line: str, world: World) -> list[str]:
    """A command line with its words in braces put in; what it writes goes into a folder of its own."""
    made = [
        re.sub(r"\{(\w+)\}", lambda found: str(SPOILT[found[1]](world)), word)
        for word in shlex.split(line.replace("{recipe}", "recipe.yaml"))
    ]
    return [*made, "-o", "out"] if made[0] in WRITING and "-o" not in made else made


def told(said: Said, code: int, fact: str) -> None:
    """Two lines on standard error, the second of which says what to do."""
    assert said.code == code, said.err
    assert "Traceback" not in said.err
    lines = [line for line in said.err.splitlines() if not re.match(r"\d\d-\w+: top-1 ", line)]
    assert len(lines) == 2, said.err
    assert lines[0].startswith("error: ")
    assert fact in lines[0]
    assert len(lines[1]) > 4


def told_both_ways(said: Said, code: int, fact: str) -> None:
    """The same as one JSON document on standard output."""
    told(said, code, fact)
    document = json.loads(said.out)
    assert set(document) == {"schema", "code", "kind", "fact", "remedy"}
    assert (document["schema"], document["code"]) == ("rescompress.error/1", code)
    assert document["kind"] in KINDS[code]
    assert said.err.endswith(f"error: {document['fact']}\n{document['remedy']}\n")


@pytest.mark.parametrize("name", RECIPES)
def test_wrong_recipe_is_refused(name, world, say):
    fact, changes = RECIPES[name]
    write(Path("recipe.yaml"), tiny(**changes))
    told_both_ways(say("run", "recipe.yaml", "--format", "json"), 2, fact)
    assert [file.name for file in world.folder.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize("name", TEXTS)
def test_file_that_is_no_recipe_is_refused(name, world, say):
    fact, content = TEXTS[name]
    world.text("recipe.yaml", content)
    told_both_ways(say("run", "recipe.yaml", "--format", "json"), 2, fact)
    assert [file.name for file in world.folder.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize("name", LINES)
def test_wrong_command_line_is_refused(name, world, say):
    code, fact, line = LINES[name]
    write(Path("recipe.yaml"), tiny())
    arguments = words(line, world)
    before = set(world.folder.rglob("*"))
    told_both_ways(say(*arguments, "--format", "json"), code, fact)
    assert litter(world.folder) == []
    left = {file.name for file in set(world.folder.rglob("*")) - before if file.is_file()}
    if name in LATE:
        assert "report.json" not in left
    else:
        assert left == set()


@pytest.mark.parametrize("name", ["unknown flag", "no such checkpoint", "broken report"])
def test_people_are_told_on_standard_error_only(name, world, say):
    code, fact, line = LINES[name]
    said = say(*words(line, world))
    told(said, code, fact)
    assert said.out == ""


@pytest.mark.parametrize("name", ["no such recipe", "no such checkpoint", "truncated checkpoint"])
def test_debug_shows_the_traceback(name, world, say):
    code, fact, line = LINES[name]
    said = say(*words(line, world), "--debug")
    assert said.code == code
    assert said.err.startswith("Traceback (most recent call last):")
    assert fact in said.err.splitlines()[-2]


def test_stage_that_refuses_keeps_what_came_before(finished, world, say):
    quantized = finished[0] / "stages" / "05-quantize.safetensors"
    said = say("quantize", quantized, "--data", "digits", "-o", world.folder / "out", "--format", "quiet")
    told(said, 4, "quantized already")
    assert (world.folder / "out" / "stages" / "00-baseline.json").exists()
    assert not (world.folder / "out" / "report.json").exists()
    assert litter(world.folder / "out") == []


def test_two_runs_in_one_folder(world, say):
    with RunFolder(world.folder / "out", "first").locked():
        said = say("prune", world.trained, "-o", world.folder / "out")
    told(said, 9, f"is in use by process {os.getpid()}")
    assert "choose another folder with -o" in said.err
    assert not (world.folder / "out" / "stages").exists()


@pytest.mark.parametrize("line", ["run {recipe}", "export {trained} --to onnx"])
def test_missing_backend_is_named_with_its_pip_line(line, world, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['onnxruntime'] = None\n")
    write(tmp_path / "recipe.yaml", tiny(model=str(world.trained), stages=[]))
    said = command(*words(line, world), "--format", "json", folder=tmp_path, path=tmp_path)
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
        "rung": "",
        "hindrance": "",
    }


def test_an_export_flag_that_no_target_takes_is_refused(world, say):
    said = say("export", world.trained, "--to", "openvino", "--opset", "21", "-o", world.folder / "out")
    told(said, 2, "openvino know no --opset")


def test_missing_demo_packages_are_named_too(world, say, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    said = say("quantize", world.trained, "--data", "digits", "-o", world.folder / "out")
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


def test_state_dict_is_never_unpickled(world, say):
    """A pickled class in a state dict is refused by its name, and is not made."""

    class Boom:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(world.folder / "boom"),)

    torch.save({"a": Boom()}, world.folder / "boom.pth")
    told(say("inspect", world.folder / "boom.pth"), 4, "loading it would call")
    assert not (world.folder / "boom").exists()


def test_yaml_tag_is_never_obeyed(world, say):
    world.text("recipe.yaml", f"name: !!python/object/apply:os.mkdir ['{world.folder / 'boom'}']\n")
    told(say("run", "recipe.yaml"), 2, "is no YAML")
    assert not (world.folder / "boom").exists()
