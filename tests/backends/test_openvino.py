"""OpenVINO's knobs, what its audit says of FP16, and how little its description of a graph takes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rescompress import backends, data, fakequant, models
from rescompress.artifact import Artifact, Manifest
from rescompress.knobs import check
from rescompress.metrics import sqnr_db
from rescompress.schemes import OPENVINO
from tests.networks import fused, noise, placed

pytestmark = pytest.mark.xdist_group("openvino")

openvino = pytest.importorskip("openvino")
BACKEND = backends.get("openvino")


def exported(model: nn.Module, folder: Path, **knobs: Any) -> Artifact:
    spec = models.spec_of(model)
    knobs = check(BACKEND.export, knobs, "openvino")
    entry = BACKEND.export(model, spec, folder, **knobs)
    return Artifact(folder, Manifest("", "", "openvino", "", "fp32", entry, {}, spec, "", "", "", knobs))


def answer(artifact: Artifact, images: Any) -> Any:
    with BACKEND.load(artifact, threads=1) as session:
        return session.run(images)


def test_fp16_halves_the_weights_and_the_audit_says_what_is_computed(tmp_path: Path) -> None:
    model, images = fused("cifar", "resnet8"), noise(fused("cifar", "resnet8"), 4)
    artifact = exported(model, tmp_path, floats="fp16")
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert 2 * weights <= (tmp_path / "model.bin").stat().st_size < 2.2 * weights
    assert sqnr_db(models.predict(model, [images]).numpy(), answer(artifact, images.numpy())) > 50
    report = BACKEND.audit(artifact)
    has_half = "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert {layer.precision for layer in report.layers if layer.op == "conv"} == {"fp16" if has_half else "fp32"}
    assert bool(report.notes) == any(layer.precision == "fp32" for layer in report.layers)


@pytest.mark.parametrize("floats", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])
def test_pixels_in_probabilities_out_in_batches_of_three(tmp_path: Path, floats: str) -> None:
    model = placed("int8", OPENVINO)
    fakequant.round_biases(model)
    artifact = exported(model, tmp_path, floats=floats, preprocess=True, softmax=True, batch=3)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    normal = data.normalize(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), models.spec_of(model).preprocessing)
    expected = models.predict(model, [normal]).softmax(1).numpy()
    found = answer(artifact, pixels)
    assert found.shape == (7, 10)
    assert sqnr_db(expected, found) > 25
    np.testing.assert_array_equal(answer(artifact, pixels[:1]), found[:1])
    assert {layer.precision for layer in BACKEND.audit(artifact).layers} == {"int8"}


def test_the_description_holds_no_white_space_and_no_constant_twice(tmp_path: Path) -> None:
    text = exported(placed("int8", OPENVINO), tmp_path).entry.read_text("utf-8")
    assert "> <" not in text.replace("\n", " ")
    network = openvino.Core().read_model(tmp_path / "model.xml")
    constants = [
        op for op in network.get_ordered_ops() if op.get_type_name() == "Constant" and op.get_byte_size() <= 64
    ]
    keys = [(str(op.get_element_type()), tuple(op.data.shape), op.data.tobytes()) for op in constants]
    assert len(keys) == len(set(keys)) > 10
