"""ONNX Runtime's knobs, and what its audit says beside the precision of each layer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rescompress import backends, data, fakequant, models
from rescompress.artifact import Artifact, Manifest
from rescompress.backends import _onnxruntime_audit
from rescompress.errors import RecipeError
from rescompress.knobs import check
from rescompress.metrics import sqnr_db
from rescompress.schemes import TENSORRT
from rescompress.spec import Floats
from tests.networks import fused, noise, placed

pytestmark = pytest.mark.xdist_group("onnxruntime")

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
BACKEND = backends.get("onnxruntime")


def exported(model: nn.Module, folder: Path, **knobs: Any) -> Artifact:
    spec = models.spec_of(model)
    knobs = check(BACKEND.export, knobs, "onnxruntime")
    entry = BACKEND.export(model, spec, folder, **knobs)
    return Artifact(folder, Manifest("", "", "onnxruntime", "", "fp32", entry, {}, spec, "", "", "", knobs))


def answer(artifact: Artifact, images: Any) -> Any:
    with BACKEND.load(artifact, threads=1) as session:
        return session.run(images)


def test_fp16_halves_the_file_and_the_audit_says_what_is_computed(tmp_path: Path) -> None:
    model, images = fused("cifar", "resnet8"), noise(fused("cifar", "resnet8"), 4)
    artifact = exported(model, tmp_path, floats="fp16")
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert 2 * weights < artifact.entry.stat().st_size < 2.2 * weights
    assert sqnr_db(models.predict(model, [images]).numpy(), answer(artifact, images.numpy())) > 55
    report = BACKEND.audit(artifact)
    wide = [layer for layer in report.layers if layer.precision == "fp32"]
    assert {layer.precision for layer in report.layers} <= {"fp32", "fp16"}
    assert len(report.layers) == 14
    assert [note for note in report.notes if "layers compute in FP32" in note] == list(report.notes)
    assert bool(report.notes) == bool(wide)


def test_pixels_in_probabilities_out_in_batches_of_three(tmp_path: Path) -> None:
    model = placed("int8")
    fakequant.round_biases(model)
    labels = [f"class {k}" for k in range(10)]
    artifact = exported(model, tmp_path, floats="fp16", preprocess=True, softmax=True, batch=3, labels=labels)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    normal = data.normalize(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), models.spec_of(model).preprocessing)
    expected = models.predict(model, [normal]).softmax(1).numpy()
    found = answer(artifact, pixels)
    assert found.shape == (7, 10)
    assert sqnr_db(expected, found) > 25
    np.testing.assert_array_equal(answer(artifact, pixels[:1]), found[:1])
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    report = BACKEND.audit(artifact)
    assert {layer.precision for layer in report.layers} == {"int8"}
    assert report.notes == ()


def test_a_scheme_of_another_runtime_leaves_floats_between_integers(tmp_path: Path) -> None:
    report = BACKEND.audit(exported(placed("int8", TENSORRT), tmp_path))
    islands, rounding = report.notes
    assert islands.endswith("nodes compute in float between integers: " + islands.partition(": ")[2])
    assert "conv1 (FusedConv)" in islands
    assert int(islands.split()[0]) >= 9
    assert int(rounding.split()[0]) >= 20
    assert "Q/DQ are left between integers" in rounding


@pytest.mark.parametrize("opset", [17, 24])
def test_operator_sets_have_their_limits(opset: int) -> None:
    with pytest.raises(RecipeError, match="opset must be"):
        check(BACKEND.export, {"opset": opset}, "onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 23])
def test_the_first_operator_set_and_the_last_run(opset: int, tmp_path: Path) -> None:
    model, images = placed("int8"), noise(placed("int8"), 4)
    fakequant.round_biases(model)
    artifact = exported(model, tmp_path, opset=opset)
    assert [entry.version for entry in onnx.load(artifact.entry).opset_import] == [opset]
    assert sqnr_db(models.predict(model, [images]).numpy(), answer(artifact, images.numpy())) > 40
    assert {layer.precision for layer in BACKEND.audit(artifact).layers} == {"int8"}


def graph_of(*nodes: tuple[str, str, list[str], list[str]]) -> Any:
    made = [onnx.helper.make_node(op, come, go, name) for op, name, come, go in nodes]
    return onnx.helper.make_graph(made, "built", [], [])


def notes_of(*nodes: tuple[str, str, list[str], list[str]], floats: Floats = "fp32") -> tuple[str, ...]:
    return _onnxruntime_audit.report(graph_of(), graph_of(*nodes), floats).notes


def test_what_stands_out_in_the_optimized_graph() -> None:
    ends = ("QuantizeLinear", "q", ["x"], ["a"]), ("DequantizeLinear", "dq", ["z"], ["y"])
    conv = ("QLinearConv", "one", ["a"], ["b"])
    assert notes_of(ends[0], conv, ("QLinearAdd", "two", ["b"], ["z"]), ends[1]) == ()
    assert notes_of(ends[0], conv, ("Transpose", "move", ["b"], ["z"]), ends[1]) == ()
    open_again = ("DequantizeLinear", "layer.dq", ["b"], ["c"])
    close_again = ("QuantizeLinear", "layer.q", ["d"], ["e"])
    last = ("QLinearConv", "three", ["e"], ["z"])
    assert notes_of(ends[0], conv, open_again, ("Sigmoid", "gate", ["c"], ["d"]), close_again, last, ends[1]) == (
        "1 nodes compute in float between integers: gate (Sigmoid).",
        "2 Q/DQ are left between integers: layer.dq, layer.q.",
    )
    stray = (("DequantizeLinear", "layer.dq", ["b"], ["d"]), close_again)
    assert notes_of(ends[0], conv, *stray, last, ends[1]) == ("2 Q/DQ are left between integers: layer.dq, layer.q.",)
