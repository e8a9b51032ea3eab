"""FP16 in the file: every float, scales too, between ends in FP32; what FP16 can't hold is refused or told."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rescompress import fakequant, graph, models, onnx_writing
from rescompress.errors import InputRefused, RecipeError
from rescompress.metrics import sqnr_db
from rescompress.onnx_writing import half, integers
from rescompress.schemes import TENSORRT
from tests.networks import cached, custom, fused, noise, placed

pytestmark = pytest.mark.xdist_group("half")

onnx = pytest.importorskip("onnx")
FLOAT, HALF, INT8, INT32 = (getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "INT8", "INT32"))

MODELS: dict[str, Callable[[], nn.Module]] = {
    "float": lambda: fused("cifar", "resnet8"),
    "TensorRT": lambda: placed("int8", TENSORRT),
    "dynamic": lambda: placed("dynamic"),
    "w8": lambda: placed("w8"),
}
daily = pytest.mark.parametrize(
    "kind", ["float", "TensorRT", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("dynamic", "w8"))]
)


@cached
def model_of(kind: str) -> nn.Module:
    model = MODELS[kind]()
    if fakequant.sites_of(model):
        fakequant.round_biases(model)  # type: ignore[arg-type]
    return model


@cached
def proto_of(kind: str) -> Any:
    return onnx_writing.proto_of(model_of(kind), models.spec_of(model_of(kind)), 21, floats="fp16")


@cached
def plain(kind: str) -> Any:
    return onnx_writing.proto_of(model_of(kind), models.spec_of(model_of(kind)), 21)


def copy_of(proto: Any) -> Any:
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    return made


def kinds_of(proto: Any) -> dict[str, int]:
    """The type of each value and tensor."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {t.name: t.data_type for t in inferred.initializer}


def runs(proto: Any, model: nn.Module, optimize: bool = True) -> float:
    """SQNR of what ONNX Runtime computes, in dB, against eager."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    images = noise(model, 4)
    return sqnr_db(models.predict(model, [images]).numpy(), session.run(None, {"images": images.numpy()})[0])


@daily
def test_every_float_is_fp16_but_for_the_ends(kind: str) -> None:
    proto, kinds = proto_of(kind), kinds_of(proto_of(kind))
    integer_layers = [node for node in proto.graph.node if node.op_type in half.RUN_TIME]
    floats = {name for name, dtype in kinds.items() if dtype == FLOAT}
    if not integer_layers:
        assert floats == {"images", "logits"}
        assert not [tensor for tensor in proto.graph.initializer if tensor.data_type in (FLOAT, INT32)]
    for node in proto.graph.node:
        if node.op_type in ("Conv", "Gemm", "Relu", "GlobalAveragePool"):
            assert {kinds[name] for name in (*node.input, *node.output)} == {HALF}
    assert [value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)] == [FLOAT, FLOAT]


@daily
def test_it_computes_what_the_model_computes(kind: str) -> None:
    assert runs(proto_of(kind), model_of(kind)) > (30 if kind == "TensorRT" else 45)
    assert runs(proto_of(kind), model_of(kind), optimize=False) > (30 if kind == "TensorRT" else 45)


def test_nodes_keep_their_names_and_their_order() -> None:
    before = [node.name for node in plain("TensorRT").graph.node if not node.name.startswith("dq")]
    after = [node.name for node in proto_of("TensorRT").graph.node if not node.name.startswith("dq")]
    assert [name for name in after if name in before] == before
    assert set(after) - set(before) == {"images/half.cast", "logits.cast"}


def test_integers_stay_and_scales_are_rounded_to_fp16() -> None:
    before, after = (
        {t.name: t for t in proto.graph.initializer} for proto in (plain("TensorRT"), proto_of("TensorRT"))
    )
    array = onnx.numpy_helper.to_array
    pairs = [node for node in proto_of("TensorRT").graph.node if node.op_type in half.PAIR]
    assert len(pairs) > 30
    for node in pairs:
        scale = array(after[node.input[1]])
        assert scale.dtype == np.float16
        assert (scale > 0).all()
        expected = array(before[node.input[1].removesuffix("/half")]).astype(np.float16)
        np.testing.assert_array_equal(scale, np.maximum(expected, np.float16(2.0**-24)))
        assert not array(after[node.input[2]]).any()
    for name in [name for name, tensor in after.items() if tensor.data_type == INT8]:
        np.testing.assert_array_equal(array(after[name]), array(before[name]))


def test_biases_are_the_steps_times_their_scales() -> None:
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in plain("TensorRT").graph.initializer}
    opened = [node for node in plain("TensorRT").graph.node if node.input[0].endswith(".bias")]
    floated = copy_of(plain("TensorRT"))
    integers.float_biases(floated.graph)
    after = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in floated.graph.initializer}
    assert len(opened) == 8
    for node in opened:
        q, s = (tensors[name] for name in node.input[:2])
        np.testing.assert_allclose(after[node.input[0]], q.astype(np.float64) * s, rtol=1e-7)
    assert not {node.name for node in opened} & {node.name for node in floated.graph.node}


def test_a_node_may_stay_in_fp32_with_scales_of_its_own() -> None:
    kept = "layer2.0.conv1"
    model = model_of("TensorRT")
    proto = onnx_writing.proto_of(model, models.spec_of(model), 21, floats="fp16", keep_fp32=[kept])
    kinds, nodes = kinds_of(proto), {node.name: node for node in proto.graph.node}
    makers = {value: node for node in proto.graph.node for value in node.output}
    assert {kinds[name] for name in (*nodes[kept].input, *nodes[kept].output)} == {FLOAT}
    assert [makers[name].op_type for name in nodes[kept].input[:2]] == ["DequantizeLinear"] * 2
    others = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm") and node.name != kept]
    assert {kinds[name] for node in others for name in (*node.input, *node.output)} == {HALF}
    assert runs(proto, model) > 30
    scales = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for name in nodes[kept].input[:1]:
        wide = scales[makers[name].input[1]]
        assert wide == wide.astype(np.float16)


def test_with_fp32_scales_integer_layers_are_as_they_were() -> None:
    model = placed("int8")
    spec = models.spec_of(model)
    wide = onnx_writing.proto_of(model, spec, 21)
    half_file = onnx_writing.proto_of(model, spec, 21, floats="fp16", fp32_scales=True)
    assert half_file.graph == wide.graph


@pytest.mark.parametrize(("opset", "refused"), [(18, True), (19, False)])
def test_fp16_scales_need_operator_set_19(opset: int, refused: bool) -> None:
    proto = copy_of(plain("TensorRT"))
    proto.opset_import[0].version = opset
    if not refused:
        assert half.convert(proto) is not None
        return
    with pytest.raises(RecipeError, match="no FP16 scales in operator set 18") as caught:
        half.convert(proto)
    assert caught.value.remedy == "Take opset 19 or later."


def test_a_name_that_no_node_has_is_refused() -> None:
    with pytest.raises(RecipeError, match="No node of the graph is called layer9"):
        half.convert(copy_of(plain("float")), keep_fp32=["layer9"])


def change(proto: Any, name: str, factor: float) -> Any:
    made = copy_of(proto)
    (tensor,) = (tensor for tensor in made.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    return made


def test_what_is_too_large_is_refused_and_what_is_too_small_is_told() -> None:
    with pytest.raises(InputRefused, match=r"linear\.weight holds .*, but FP16 ends at 65504\."):
        half.convert(change(plain("float"), "linear.weight", 1e7))
    assert half.convert(copy_of(plain("float"))) == ()
    (told,) = half.convert(change(plain("float"), "linear.weight", 1e-7))
    assert told.startswith("FP16 moves 1 tensors, linear.weight the most: by ")
    scale = next(node for node in plain("w8").graph.node if node.input[0] == "linear.weight").input[1]
    (told,) = half.convert(change(plain("w8"), scale, 1e-6))
    assert "too small for FP16" in told


class Resized(nn.Module):
    """A resize, whose factors stay FP32, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.register_buffer("offset", torch.full((1, 3, 1, 1), 0.5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps of twice the size."""
        x = nn.functional.interpolate(self.conv(images), scale_factor=2.0, mode="bilinear")
        return (x + self.offset).mean((2, 3))


def test_other_ops_keep_what_the_standard_has_in_fp32_only() -> None:
    model = custom(Resized())
    proto = onnx_writing.proto_of(model, models.spec_of(model), 21, floats="fp16")
    assert "Resize" in {node.op_type for node in proto.graph.node}
    assert runs(proto, model) > 50
    assert graph.capture(model, (3, 8, 8))


def test_biases_that_share_their_integers_keep_their_own_scales():
    """A network whose biases are all zero stores them once."""
    tensors = {"q": np.array([0, 4], np.int32), "s": np.array([1, 1], np.float32), "t": np.array([1, 0.5], np.float32)}
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["one"], "one", axis=0),
        onnx.helper.make_node("DequantizeLinear", ["q", "t"], ["other"], "other", axis=0),
        onnx.helper.make_node("Add", ["one", "other"], ["sum"]),
    ]
    shared = [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()]
    result = onnx.helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, [2])
    graph = onnx.helper.make_graph(nodes, "biases", [], [result], shared)
    integers.float_biases(graph)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in graph.node] == ["Add"]
    np.testing.assert_array_equal(onnx.reference.ReferenceEvaluator(proto).run(None, {})[0], [0, 6])
