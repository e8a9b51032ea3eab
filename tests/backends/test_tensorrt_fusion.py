"""What TensorRT should make of real graphs: golden files of each kind of network, and what others' tools write."""

import json
from pathlib import Path
from typing import Any

import pytest

from rescompress import models
from rescompress.backends._tensorrt_fusion import PREFIX, Prediction, predict
from rescompress.schemes import ONNXRUNTIME, TENSORRT
from tests.networks import cached, placed

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript, which PyTorch's exporter needs, is not installed")

pytestmark = pytest.mark.xdist_group("fusion")

GOLDEN = Path(__file__).parent / "golden" / "tensorrt_fusion"
NETWORKS = {
    "resnet8": ("cifar", "resnet8", 32),
    "resnet18": ("torchvision", "resnet18", 32),
    "resnet50": ("torchvision", "resnet50", 32),
    "resnext50": ("torchvision", "resnext50_32x4d", 32),
    "se_resnet20": ("se", "se_resnet20", 32),
    "preact_resnet20": ("preact", "preact_resnet20", 32),
}
QUICK = ("resnet8",)


@cached
def exported(network: str, scheme: str = "tensorrt", floats: str = "fp16") -> Any:
    """The graph that TensorRT would get; with ONNX Runtime's scheme, the one that it had better not get."""
    from rescompress import onnx_writing

    ours = scheme == "tensorrt"
    family, architecture, side = NETWORKS[network]
    model = placed("int8", TENSORRT if ours else ONNXRUNTIME, family, architecture, side)
    return onnx_writing.proto_of(model, models.spec_of(model), 21, floats=floats, float_biases=ours)


def verdicts(prediction: Prediction) -> dict[str, Any]:
    """A prediction as its golden file has it."""
    findings: dict[str, list[str]] = {}
    for found in prediction.findings:
        findings.setdefault(f"{found.rule} ({found.breaks})", []).append(found.node)
    layers = {
        layer.name: f"{layer.op} {layer.precision}" + (f" in {layer.fused_into}" if layer.fused_into else "")
        for layer in prediction.layers
    }
    kernels = {f"{kernel} {precision}": number for kernel, precision, number in prediction.kernels}
    return {"kernels": kernels, "findings": findings, "layers": layers}


@pytest.mark.parametrize(
    "network", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_verdicts_on_our_own_graphs(network: str) -> None:
    wanted = json.loads((GOLDEN / f"{network}.json").read_text("utf-8"))
    assert verdicts(predict(exported(network))) == wanted


@pytest.mark.parametrize("network", NETWORKS)
def test_what_the_golden_files_say(network: str) -> None:
    """Every layer with weights is INT8, no file is refused, and a residual block is one kernel and its first layers."""
    golden = json.loads((GOLDEN / f"{network}.json").read_text("utf-8"))
    weighted = [verdict for verdict in golden["layers"].values() if verdict.startswith(("conv", "linear"))]
    assert weighted
    assert all(" int8" in verdict for verdict in weighted)
    assert not [rule for rule in golden["findings"] if rule.endswith("(build)")]
    fused = [verdict for verdict in golden["layers"].values() if verdict.startswith("add") and "in conv+add" in verdict]
    adds = [verdict for verdict in golden["layers"].values() if verdict.startswith("add")]
    assert len(adds) - len(fused) == (7 if network == "se_resnet20" else 0)


def test_the_report_says_that_nothing_was_built() -> None:
    prediction = predict(exported("resnet8"))
    report = prediction.report()
    assert all(note.startswith(PREFIX) for note in report.notes)
    assert report.notes[0].endswith("INT8 for 9 of 9 conv, 3 of 3 add, 0 of 1 pool, 1 of 1 linear.")
    assert [layer.layer for layer in report.layers] == [layer.name for layer in prediction.layers]
    assert report.int8_share("conv").correct == 9
    assert sum(report.op_counts.values()) == report.int8_nodes.total == sum(kernel[2] for kernel in prediction.kernels)
    for source in {finding.source for finding in prediction.findings}:
        assert any(f"[{source}]" in note for note in report.notes)


def test_a_graph_for_onnx_runtime_is_refused_and_would_not_fuse() -> None:
    prediction = predict(exported("resnet8", "onnxruntime", "fp32"))
    rules = {finding.rule for finding in prediction.findings if finding.breaks == "build"}
    assert not prediction.builds
    assert {"zero_point_is_zero", "integers_are_signed_bytes"} <= rules
    assert [layer.fused_into for layer in prediction.layers if layer.op == "add"] == ["add+relu"] * 3
    broken = [finding.node for finding in prediction.findings if finding.rule == "nothing_between_layer_and_add"]
    assert broken == [layer.name for layer in prediction.layers if layer.op == "add"]
