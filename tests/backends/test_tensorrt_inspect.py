"""What the inspector says of engines, in the forms of TensorRT 8 to 11, becomes a precision report.

Fields and format strings are those of NVIDIA's page "Engine Inspector" (detailed verbosity), of NVIDIA/TensorRT#3737
(10.0, `HasResidual`), of Torch-TensorRT's guide ("Channel major FP16 format where channel % 4 == 0"), and of "Migrating
IEngineInspector Usage from TensorRT 10.x to 11.x" (types in a field of their own, `I/O Tensors`); `Metadata` lists the
ONNX nodes between record separators. The layers themselves are ours.
"""

import json
from typing import Any

import pytest

from rescompress.backends import _tensorrt_inspect as inspecting

onnx = pytest.importorskip("onnx", reason="The audit reads the ONNX file.")

INT8 = "Thirty-two wide channel vectorized row major Int8 format."
HALF = "Channel major FP16 format where channel % 4 == 0"
SINGLE = "Row major linear FP32"
NODES = (
    ("QuantizeLinear", "x.q", ["x", "s"], ["q"]),
    ("DequantizeLinear", "x.dq", ["q", "s"], ["dq"]),
    ("Conv", "conv1", ["dq", "w1"], ["c1"]),
    ("Relu", "relu", ["c1"], ["r1"]),
    ("Conv", "layer1.0.conv2", ["r1", "w2"], ["c2"]),
    ("Add", "layer1.0.add", ["c2", "r1"], ["a"]),
    ("Relu", "layer1.0.relu", ["a"], ["r2"]),
    ("Add", "shift", ["r2", "s"], ["moved"]),
    ("GlobalAveragePool", "avgpool", ["moved"], ["p"]),
    ("Gemm", "fc", ["p", "w3"], ["y"]),
)


def file() -> Any:
    nodes = [onnx.helper.make_node(op, inputs, outputs, name) for op, name, inputs, outputs in NODES]
    stored = [onnx.helper.make_tensor(name, 1, [1], [1.0]) for name in ("s", "w1", "w2", "w3")]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], stored))


def layer(name: str, reads: str, weights: str | None = None, kind: str = "CaskConvolution", **more: Any) -> Any:
    """A layer as 10.x writes it."""
    told = {"Name": name, "LayerType": kind, "Inputs": [{"Name": "x", "Format/Datatype": reads}], **more}
    return told | ({"Weights": {"Type": weights, "Count": 9}} if weights else {})


def report(*layers: Any) -> Any:
    return inspecting.read(json.dumps({"Layers": layers, "Bindings": ["x", "y"]}), file())


FUSED = (
    layer("Reformatting CopyNode for Input Tensor 0 to conv1", SINGLE, kind="Reformat"),
    layer("w1 + x.q + conv1 + relu", INT8, "Int8"),
    layer("w2 + layer1.0.conv2 + layer1.0.add + layer1.0.relu", INT8, "Int8", HasResidual=1, Activation="RELU"),
    layer("avgpool", HALF, kind="CaskPooling"),
    layer("fc", HALF, "Half", kind="CaskGemm"),
)


def test_each_layer_has_the_precision_of_its_kernel() -> None:
    found = report(*FUSED)
    assert {(layer.layer, layer.op, layer.precision) for layer in found.layers} == {
        ("conv1", "conv", "int8"),
        ("layer1.0.conv2", "conv", "int8"),
        ("layer1.0.add", "add", "int8"),
        ("avgpool", "pool", "fp16"),
        ("fc", "linear", "fp16"),
    }
    assert (found.int8_nodes.correct, found.int8_nodes.total) == (2, 4)
    assert found.op_counts == {
        "CaskConvolution int8": 2,
        "CaskGemm fp16": 1,
        "CaskPooling fp16": 1,
        "Reformat fp32": 1,
    }
    assert found.notes == (
        "1 of 1 residual adds run inside a convolution's kernel.",
        "2 of 2 ReLUs run inside a convolution's kernel.",
        "1 layers only copy a tensor into another format.",
    )


def test_a_missed_fusion_is_named() -> None:
    found = report(
        *FUSED[:2],
        layer("layer1.0.conv2", INT8, "Int8"),
        layer("PWN(layer1.0.add, layer1.0.relu)", HALF, kind="PointWiseV2"),
        *FUSED[3:],
    )
    assert {layer.layer: layer.precision for layer in found.layers}["layer1.0.add"] == "fp16"
    assert found.notes[0] == "0 of 1 residual adds run inside a convolution's kernel; apart from it: layer1.0.add."
    assert found.notes[1] == "1 of 2 ReLUs run inside a convolution's kernel; apart from it: layer1.0.relu."


def test_stray_pairs_and_silence_are_noted() -> None:
    found = report(layer("x.q", SINGLE, kind="kgen"), "conv1", layer("fc", "N/A due to dynamic shapes", kind="Gemm"))
    assert "1 Q/DQ run by themselves: x.q." in found.notes
    assert "TensorRT doesn't say the precision of conv1, fc." in found.notes
    assert {layer.layer: layer.precision for layer in found.layers}["fc"] == "unknown"


@pytest.mark.parametrize("separator", ["\x1e", "\x1f"])
def test_metadata_names_the_nodes_where_a_layers_own_name_doesnt(separator: str) -> None:
    told = separator.join(f"[ONNX Layer: {name}]" for name in ("layer1.0.conv2", "layer1.0.add", "layer1.0.relu"))
    found = report(layer("__myl_ConvAddRelu_0x1", INT8, "Int8", Metadata=told))
    assert {layer.layer: layer.precision for layer in found.layers}["layer1.0.add"] == "int8"


def test_types_are_read_where_11_puts_them() -> None:
    inputs = [{"Name": "x", "Format": "Row major linear", "Datatype": "Half"}]
    told = {"Name": "conv1", "LayerType": "CaskConvolution", "Inputs": inputs, "Metadata": None}
    tensors = [{"Name": "x", "IOMode": "Input", "DataType": "Float"}]
    found = inspecting.read(json.dumps({"Layers": [told], "I/O Tensors": tensors}), file())
    assert {layer.layer: layer.precision for layer in found.layers}["conv1"] == "fp16"


@pytest.mark.parametrize(
    ("reads", "weights", "precision"),
    [
        (INT8, "Int8", "int8"),
        (HALF, "Int8", "fp16"),  # weights alone: they are made floats first
        (INT8, "Half", "fp16"),
        (INT8, None, "int8"),
        ("Row major linear BFloat16 format", "BF16", "bf16"),
        ("Float", "Float", "fp32"),
        ("Half", None, "fp16"),
        ("FP8", None, "fp8"),
        ("Row major Int32 format", None, "unknown"),
    ],
)
def test_a_layer_computes_in_the_widest_type_that_it_reads(reads: str, weights: str | None, precision: str) -> None:
    found = report(layer("conv1", reads, weights))
    assert {layer.layer: layer.precision for layer in found.layers}["conv1"] == precision


def test_an_add_of_two_types_computes_in_the_wider() -> None:
    both = [{"Format/Datatype": INT8}, {"Format/Datatype": HALF}]
    found = report({"Name": "layer1.0.add", "LayerType": "ElementWise", "Inputs": both})
    assert {layer.layer: layer.precision for layer in found.layers}["layer1.0.add"] == "fp16"


def test_many_names_are_counted() -> None:
    assert inspecting._listed(list("abcde")) == "a, b, c and 2 more"
