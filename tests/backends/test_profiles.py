"""Profiles of real runtimes: every layer of the audit is there, or inside a kernel that is."""

from pathlib import Path

import numpy as np
import pytest

from rescompress import backends, fakequant, models
from rescompress.artifact import Artifact, Manifest
from rescompress.spec import Precision
from tests.networks import fused, noise, placed, quantized

slow = pytest.mark.slow
OWN = ("conv", "linear", "add", "pool")


def exported(name: str, precision: Precision, folder: Path, batch: int | None) -> Artifact:
    backend = backends.get(name)
    if backend.missing():
        pytest.skip(f"{name} is not installed")
    if precision == "fp32":
        model = fused("cifar", "resnet8")
    elif backend.SCHEME is None:
        model = quantized("cifar", "resnet8")
    else:
        model = placed("int8", backend.SCHEME)
        fakequant.round_biases(model)
    spec, knobs = models.spec_of(model), {"batch": batch} if batch else {}
    entry = backend.export(model, spec, folder, **knobs)
    return Artifact(folder, Manifest("", "", name, "label", precision, entry, {}, spec, "", "", "", knobs))


@pytest.mark.parametrize(
    ("name", "precision", "batch"),
    [
        ("onnxruntime", "fp32", None),
        pytest.param("onnxruntime", "int8", None, marks=slow),
        pytest.param("onnxruntime", "int8", 3, marks=slow),
        pytest.param("openvino", "fp32", None, marks=slow),
        ("openvino", "int8", None),
        pytest.param("openvino", "int8", 3, marks=slow),
        ("eager", "fp32", None),
        pytest.param("eager", "int8", None, marks=slow),
    ],
)
def test_every_layer_has_its_time(name: str, precision: Precision, batch: int | None, tmp_path: Path) -> None:
    artifact = exported(name, precision, tmp_path, batch)
    images = noise(fused("cifar", "resnet8"), 8).numpy()
    row = backends.get(name).profile(artifact, images, threads=1)
    assert (row.label, row.backend) == ("label", name)
    audit = backends.get(name).audit(artifact)
    times = {each.layer: each for each in row.layers if each.op in OWN}
    inside = [layer for each in row.layers for layer in each.fused]
    assert sorted((*times, *inside)) == sorted(layer.layer for layer in audit.layers)
    assert {layer.op for layer in audit.layers if layer.layer in times and times[layer.layer].op != layer.op} == set()
    assert all(each.kernels for each in row.layers)
    assert [each.op in OWN for each in row.layers] == sorted((each.op in OWN for each in row.layers), reverse=True)
    convolutions = [each.ms for each in row.layers if each.op == "conv"]
    assert len(convolutions) == 9
    assert all(np.array(convolutions) > 0)  # OpenVINO counts whole microseconds; its pools may take less
    assert all(each.ms >= 0 for each in row.layers)
    if name != "openvino":  # whose layers are means and whose queries are medians
        assert sum(each.ms for each in row.layers) < 1.5 * row.total_ms
