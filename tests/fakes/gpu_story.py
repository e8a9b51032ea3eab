"""What the tests of TensorRT share: a network that is exported once, and artifacts made of it on a fake machine."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from rescompress import models, onnx_writing
from rescompress.artifact import Artifact, Manifest
from rescompress.backends import tensorrt
from rescompress.schemes import TENSORRT
from tests.networks import cached, fused, placed

GROUPED = "layer2.0.conv1"
"""The layer that a test declares to have no kernel."""


@cached
def network(kind: str = "float") -> nn.Module:
    """A small ResNet, float or with scales that cover noise."""
    return fused("cifar", "resnet8") if kind == "float" else placed("int8", TENSORRT)


_export = onnx_writing._exported


@cached
def _exported(kind: str) -> bytes:
    model = network(kind)
    return bytes(_export(model, models.spec_of(model), 21).SerializeToString())


def export_once(patch: pytest.MonkeyPatch) -> None:
    """Let PyTorch's exporter, which takes seconds, run once a network in this process."""
    import onnx

    def exported(model: nn.Module, spec: Any, opset: int) -> Any:
        kind = next(kind for kind in ("float", "int8") if network(kind) is model)
        return onnx.load_from_string(_exported(kind))

    patch.setattr(onnx_writing, "_exported", exported)


def artifact(folder: Path, kind: str = "float", **knobs: Any) -> Artifact:
    """Export a network into a new folder, with a manifest as the pipeline writes it."""
    folder.mkdir(parents=True)
    model = network(kind)
    entry = tensorrt.export(model, models.spec_of(model), folder, **knobs)
    files = {path.name: "" for path in folder.iterdir()}
    spec = models.spec_of(model)
    return Artifact(folder, Manifest("", "", "tensorrt", "", "fp32", entry, files, spec, "", "", "", knobs))
