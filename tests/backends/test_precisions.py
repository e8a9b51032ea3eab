"""Each precision and each scheme as a file: what it stores, what runs it, and that it says what eager says."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import fx

from rescompress import backends, fakequant, graph, models, onnx_writing
from rescompress.errors import InputRefused, RecipeError
from rescompress.metrics import sqnr_db
from rescompress.schemes import ONNXRUNTIME_ARM, TENSORRT
from tests.networks import cached, noise, placed

pytestmark = pytest.mark.xdist_group("precisions")

onnx = pytest.importorskip("onnx")


def unsigned() -> fx.GraphModule:
    """INT8 whose weights are stored around 128."""
    model = placed("int8")
    for module in model.modules():
        if isinstance(module, fakequant.FakeQuantize) and module.site.is_weight:
            module.site = replace(module.site, dtype="uint8")
            module.zero_point.fill_(128)
    return model


MODELS: dict[str, Callable[[], fx.GraphModule]] = {
    "int8": lambda: placed("int8"),
    "w4a8": lambda: placed("w4a8"),
    "dynamic": lambda: placed("dynamic"),
    "w8": lambda: placed("w8"),
    "w4": lambda: placed("w4"),
    "uint8 weights": unsigned,
    "Arm": lambda: placed("int8", ONNXRUNTIME_ARM),
    "TensorRT": lambda: placed("int8", TENSORRT),
}
STORED = {"w4a8": "INT4", "w4": "INT4", "uint8 weights": "UINT8"}
ACTIVATIONS = {"int8": "UINT8", "w4a8": "UINT8", "uint8 weights": "UINT8", "Arm": "INT8", "TensorRT": "INT8"}
INTEGER_CONVS = {"int8": "QLinearConv", "dynamic": "ConvInteger", "uint8 weights": "QLinearConv"}
"""What ONNX Runtime on x86 makes of a convolution where it computes in integers."""
DAILY = ("dynamic", "w4", "TensorRT")
kinds = pytest.mark.parametrize(
    "kind", [kind if kind in DAILY else pytest.param(kind, marks=pytest.mark.slow) for kind in MODELS]
)


@cached
def model_of(kind: str) -> fx.GraphModule:
    model = MODELS[kind]()
    fakequant.round_biases(model)
    return model


@cached
def proto_of(kind: str) -> Any:
    return onnx_writing.proto_of(model_of(kind), models.spec_of(model_of(kind)), 21)


def layers_of(kind: str) -> list[fx.Node]:
    return [node for node in model_of(kind).graph.nodes if graph.op_of(node) in ("conv", "linear")]


def makers_of(proto: Any) -> dict[str, Any]:
    return {value: node for node in proto.graph.node for value in node.output}


def session_of(kind: str, optimized: Path | None = None) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(proto_of(kind).SerializeToString(), options, providers=["CPUExecutionProvider"])


@kinds
def test_the_file_stores_weights_in_their_own_type(kind: str) -> None:
    names = {graph.name_of(node.args[1].args[0]) for node in layers_of(kind)}
    tensors = {tensor.name.removesuffix(".transposed"): tensor for tensor in proto_of(kind).graph.initializer}
    assert {onnx.TensorProto.DataType.Name(tensors[name].data_type) for name in names} == {STORED.get(kind, "INT8")}
    assert not [
        t.name for t in tensors.values() if t.data_type == onnx.TensorProto.FLOAT and t.dims[1:] not in ([], [1, 1])
    ]
    biases = {onnx.TensorProto.DataType.Name(tensors[name].data_type) for name in tensors if name.endswith(".bias")}
    assert biases == ({"INT32"} if kind in ACTIVATIONS else set() if kind == "dynamic" else {"FLOAT"})


@kinds
def test_activations_are_quantized_where_and_how_the_scheme_says(kind: str) -> None:
    proto = proto_of(kind)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    count = Counter(node.op_type for node in proto.graph.node)
    zeros = [tensors[node.input[2]] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    types = {onnx.TensorProto.DataType.Name(zero.data_type) for zero in zeros}
    assert types == ({ACTIVATIONS[kind]} if kind in ACTIVATIONS else set())
    sites = [site for site in fakequant.sites_of(model_of(kind)) if not site.is_weight]
    assert len(sites) == (count["DynamicQuantizeLinear"] if kind == "dynamic" else count["QuantizeLinear"])
    integer = count["ConvInteger"] + count["MatMulInteger"]
    assert integer == (len(layers_of(kind)) if kind == "dynamic" else 0)
    if kind == "TensorRT":
        assert all(not onnx.numpy_helper.to_array(zero).any() for zero in zeros)


def test_tensorrt_finds_no_pair_between_a_convolution_and_its_add() -> None:
    proto = proto_of("TensorRT")
    makers = makers_of(proto)
    adds = [[makers[value].op_type for value in node.input] for node in proto.graph.node if node.op_type == "Add"]
    assert len(adds) == 3
    assert all(sorted(pair) == ["Conv", "DequantizeLinear"] for pair in adds)


@kinds
def test_onnx_runtime_says_what_eager_says(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    images = noise(model, 8)
    answer = session_of(kind, tmp_path / "built.onnx").run(None, {"images": images.numpy()})[0]
    assert sqnr_db(models.predict(model, [images]).numpy(), answer) > (100 if kind in ("w8", "w4") else 40)
    built = Counter(node.op_type for node in onnx.load(tmp_path / "built.onnx").graph.node)
    if kind in INTEGER_CONVS:
        assert built[INTEGER_CONVS[kind]] == sum(graph.op_of(node) == "conv" for node in layers_of(kind))
    if kind in ("w8", "w4", "w4a8"):
        assert not built["QLinearConv"] + built["ConvInteger"]


@pytest.mark.parametrize(
    "kind", ["w4", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("int8", "w8", "w4a8"))]
)
def test_openvino_says_what_eager_says(kind: str) -> None:
    openvino = pytest.importorskip("openvino")
    model = model_of(kind)
    images = noise(model, 8)
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    compiled = core.compile_model(core.read_model(proto_of(kind).SerializeToString()), "CPU", options)
    answer = np.array(compiled([images.numpy()])[0])
    assert sqnr_db(models.predict(model, [images]).numpy(), answer) > (100 if kind in ("w8", "w4") else 30)


def test_openvino_refuses_ranges_that_are_found_at_run_time(tmp_path: Path) -> None:
    backend, model = backends.get("openvino"), model_of("dynamic")
    if backend.missing():
        pytest.skip("openvino is not installed")
    with pytest.raises(InputRefused, match="OpenVINO computes in float where ranges are found at run time") as caught:
        backend.export(model, models.spec_of(model), tmp_path)
    assert caught.value.remedy == "Quantize with int8, or export to onnx."
    assert list(tmp_path.iterdir()) == []


def test_int4_needs_operator_set_21() -> None:
    model = model_of("w4")
    with pytest.raises(RecipeError, match="no INT4 in operator set 20"):
        onnx_writing.proto_of(model, models.spec_of(model), 20)
