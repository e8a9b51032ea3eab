"""``rescompress inspect``: tables for people, one document for programs, files for a browser, and ONNX graphs."""

import json

from rescompress import backends, models
from rescompress.cli import show
from tests.networks import fused


def test_tables_end_with_findings_and_totals(say):
    said = say("inspect", "digits_resnet20", "--data", "digits", "--images", 2)
    assert said.code == 0, said.err
    for text in ("layer2.0.shortcut", "output's dB", "layer1.0 to layer1.2", "dependency group", "note: residual adds"):
        assert text in said.out
    assert said.out.splitlines()[-1].startswith("cifar resnet20, 10 classes: 269,722 parameters, 40,813,184 MACs")


def test_the_document_is_the_whole_inspection_and_the_files_are_written(say, tmp_path):
    said = say("inspect", "digits_resnet20", "--format", "json", "-o", tmp_path / "out")
    document = json.loads(said.out)
    assert set(document) >= {"schema", "model", "total", "layers", "blocks", "groups", "findings", "images"}
    assert json.loads((tmp_path / "out" / "inspect.json").read_bytes()) == document
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"inspect.json", "inspect.html", "network.svg"}
    assert "inspect.html" in said.err


def test_an_onnx_graph_is_inspected_but_not_run(say, tmp_path):
    model = fused("cifar", "resnet8")
    backends.get("onnxruntime").export(model, models.spec_of(model), tmp_path)
    said = say("inspect", tmp_path / "model.onnx")
    assert (said.code, said.err) == (0, "")
    assert "layer1.0.conv1" in said.out
    assert say("inspect", tmp_path / "model.onnx", "--data", "digits").code == 2


def test_a_broken_onnx_graph_is_refused(say, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    assert say("inspect", tmp_path / "broken.onnx").code == 4
    assert say("inspect", tmp_path / "none.onnx").code == 4


def test_brackets_in_names_are_no_markup(capsys):
    show.table(["name"], [["[red]x[/red]"]])
    assert "[red]x[/red]" in capsys.readouterr().out
