"""Each rule of TensorRT's fusion, broken once, in a graph that keeps all others."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rescompress.backends._tensorrt_fusion import Prediction, predict
from tests.backends.qdq import Sketch, narrow, onnx


def drawn(draw: Callable[[Sketch], str], **how: Any) -> Prediction:
    sketch = Sketch(**how)
    proto = sketch.proto(draw(sketch))
    onnx.checker.check_model(proto, full_check=True)
    return predict(proto)


def broken(prediction: Prediction) -> set[tuple[str, str, str]]:
    return {(finding.node, finding.rule, finding.breaks) for finding in prediction.findings}


def layer(prediction: Prediction, name: str) -> tuple[str, str | None]:
    (found,) = [layer for layer in prediction.layers if layer.name == name]
    return found.precision, found.fused_into


def test_nvidias_own_placement_breaks_no_rule() -> None:
    prediction = drawn(lambda sketch: sketch.block())
    assert broken(prediction) == set()
    assert prediction.builds
    assert prediction.kernels == (("conv", "int8", 1), ("conv+add+relu", "int8", 1), ("conv+relu", "int8", 1))
    assert layer(prediction, "conv2") == layer(prediction, "add") == ("int8", "conv+add+relu")
    assert [found.reason.endswith("writes INT8.") for found in prediction.layers] == [True, True, True, False]


def test_both_inputs_of_an_add_quantized_as_quantize_static_does() -> None:
    """A pair between convolution and add: both are INT8, in two kernels."""
    prediction = drawn(lambda sketch: sketch.block(trunk=True))
    assert broken(prediction) == {("add", "nothing_between_layer_and_add", "fusion")}
    assert layer(prediction, "add") == ("int8", "add+relu")
    assert layer(prediction, "conv2") == ("int8", None)


def test_a_float_shortcut_makes_the_sum_float() -> None:
    prediction = drawn(lambda sketch: sketch.block(residual=False))
    assert ("add", "residual_is_quantized", "int8") in broken(prediction)
    assert layer(prediction, "add") == ("fp16", "conv+add+relu")
    assert layer(prediction, "conv2") == ("int8", "conv+add+relu")


def test_a_float_sum_of_an_int8_residual_as_modelopt_leaves_it_before_global_pooling() -> None:
    prediction = drawn(lambda sketch: sketch.block(closed=False))
    assert broken(prediction) == {("add", "sum_is_quantized", "fusion")}
    assert layer(prediction, "add") == ("fp16", "conv+add+relu")
    assert layer(prediction, "pool") == ("fp16", None)


def test_an_add_without_a_convolution_of_its_own() -> None:
    """The convolution is read twice, so it can't add."""

    def draw(sketch: Sketch) -> str:
        entry = sketch.pair("images", "entry")
        made = sketch.conv(entry, "conv1")
        weighed = sketch.op("Mul", made, sketch.op("Sigmoid", made, name="gate"), name="mul")
        return sketch.op("Relu", sketch.op("Add", weighed, entry, name="add"), name="relu")

    prediction = drawn(draw)
    assert broken(prediction) == {("add", "convolution_carries_add", "fusion")}
    assert layer(prediction, "add") == ("fp16", "add+relu")


def test_of_two_convolutions_the_later_adds() -> None:
    def draw(sketch: Sketch) -> str:
        entry = sketch.pair("images", "entry")
        project = sketch.pair(sketch.conv(entry, "project"), "projected")
        trunk = sketch.conv(entry, "trunk")
        return sketch.conv(sketch.pair(sketch.op("Add", project, trunk, name="add"), "sum"), "after")

    prediction = drawn(draw)
    assert broken(prediction) == set()
    assert (layer(prediction, "project"), layer(prediction, "trunk")) == (("int8", None), ("int8", "conv+add"))


@pytest.mark.parametrize("between", ["Relu", "BatchNormalization"])
def test_a_pair_between_convolution_and_what_it_would_take_in(between: str) -> None:
    def draw(sketch: Sketch, apart: bool = True) -> str:
        made = sketch.conv(sketch.pair("images", "entry"), "conv1")
        made = sketch.pair(made, "apart") if apart else made
        statistics = [sketch.store(f"norm.{k}", np.ones(32)) for k in range(4)] if between != "Relu" else []
        taken = sketch.op(between, made, *statistics, name="taken")
        return sketch.conv(sketch.pair(taken, "behind"), "conv2")

    assert ("conv1", "nothing_between_layer_and_activation", "fusion") in broken(drawn(draw))
    whole = drawn(lambda sketch: draw(sketch, apart=False))
    assert broken(whole) == set()
    assert layer(whole, "conv1") == ("int8", "conv+relu" if between == "Relu" else "conv+bn")


def test_a_normalization_before_a_convolution_is_a_float_kernel() -> None:
    def draw(sketch: Sketch) -> str:
        statistics = [sketch.store(f"norm.{k}", np.ones(32)) for k in range(4)]
        norm = sketch.op("BatchNormalization", sketch.pair("images", "entry"), *statistics, name="norm")
        return sketch.conv(sketch.pair(sketch.op("Relu", norm, name="relu"), "behind"), "conv1")

    prediction = drawn(draw)
    assert broken(prediction) == {("norm", "normalization_follows_convolution", "fusion")}
    assert ("bn+relu", "fp16", 1) in prediction.kernels


def test_readers_that_disagree() -> None:
    """In a pre-activation network the sum goes on through Q and DQ, and beside them to a BatchNorm."""

    def draw(sketch: Sketch) -> str:
        made = sketch.conv(sketch.pair("images", "entry"), "conv1")
        return sketch.op("Add", sketch.conv(sketch.pair(made, "one"), "conv2"), made, name="add")

    assert ("conv1", "every_reader_reads_integers", "fusion") in broken(drawn(draw))


Change = Callable[[Any], None]


def stored(name: str, values: Any, kind: Any) -> Change:
    def change(proto: Any) -> None:
        (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == name]
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(values, kind), name))

    return change


CHANGES: dict[str, tuple[Change, tuple[str, str, str]]] = {
    "zero-point": (stored("first.zero", 3, np.int8), ("first.q", "zero_point_is_zero", "build")),
    "zero-points": (stored("conv1.weight.zero", 0, np.int8), ("conv1.weight.dq", "zero_point_is_zero", "build")),
    "unsigned": (stored("first.zero", 0, np.uint8), ("first.q", "integers_are_signed_bytes", "accuracy")),
    "scale 0": (stored("first.scale", 0, np.float16), ("first.q", "scale_is_stored_and_positive", "build")),
    "scale too small": (stored("first.scale", 1e-9, np.float16), ("first.q", "scale_is_stored_and_positive", "build")),
    "INT4": (lambda proto: narrow(proto, "conv1.weight"), ("conv1", "weight_is_dequantized", "int8")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_stored(change: str) -> None:
    sketch = Sketch()
    proto = sketch.proto(sketch.block())
    CHANGES[change][0](proto)
    prediction = predict(proto)
    assert CHANGES[change][1] in broken(prediction)
    assert prediction.builds == (CHANGES[change][1][2] != "build")
    assert (layer(prediction, "conv1")[0] == "int8") == (CHANGES[change][1][2] != "int8")


@pytest.mark.parametrize(
    ("how", "breaks", "precision"), [({"per_channel": False}, "accuracy", "int8"), ({"axis": 1}, "int8", "fp16")]
)
def test_the_scales_of_a_weight(how: dict[str, Any], breaks: str, precision: str) -> None:
    def draw(sketch: Sketch) -> str:
        weight = sketch.weight("weight", (32, 32, 1, 1), **how)
        return sketch.conv(sketch.pair("images", "entry"), "conv1", weight=weight)

    prediction = drawn(draw)
    assert broken(prediction) == {("conv1", "weight_scales_follow_outputs", breaks)}
    assert layer(prediction, "conv1")[0] == precision


def test_int32_biases_are_refused_and_float_ones_are_not() -> None:
    def draw(sketch: Sketch, quantized: bool = True) -> str:
        bias = sketch.store("bias", np.ones(32), np.int32 if quantized else None)
        if quantized:
            bias = sketch.op(
                "DequantizeLinear", bias, sketch.store("bias.scale", np.full(32, 0.25)), name="bias.dq", axis=0
            )
        weight = sketch.weight("conv1.weight", (32, 32, 1, 1))
        return sketch.op("Conv", sketch.pair("images", "entry"), weight, bias, name="conv1")

    assert broken(drawn(draw)) == {("bias.dq", "integers_are_signed_bytes", "build")}
    assert broken(drawn(lambda sketch: draw(sketch, quantized=False))) == set()


def test_a_scale_per_channel_of_an_activation() -> None:
    scales = np.full(32, 0.5)
    prediction = drawn(lambda sketch: sketch.conv(sketch.pair("images", "entry", scales=scales), "conv1"))
    assert ("entry.dq", "activations_have_one_scale", "int8") in broken(prediction)
    assert layer(prediction, "conv1")[0] == "fp16"


def test_half_quantized_layers_are_float() -> None:
    def draw(sketch: Sketch, weight: bool, value: bool) -> str:
        stored = "" if weight else sketch.store("plain", np.ones((32, 32, 1, 1)))
        return sketch.conv(sketch.pair("images", "entry") if value else "images", "conv1", weight=stored)

    for weight, value, rule in ((True, False, "input_is_dequantized"), (False, True, "weight_is_dequantized")):
        prediction = drawn(lambda sketch, weight=weight, value=value: draw(sketch, weight, value))
        assert broken(prediction) == {("conv1", rule, "int8")}
        assert layer(prediction, "conv1") == ("fp16", None)
    assert broken(drawn(lambda sketch: draw(sketch, weight=False, value=False))) == set()


def test_weights_in_float_behind_q_and_dq_are_as_good_as_stored_integers() -> None:
    """As pytorch-quantization and ModelOpt write them."""

    def draw(sketch: Sketch) -> str:
        weight = sketch.pair(sketch.store("plain", np.ones((32, 32, 1, 1))), "weight", scales=np.full(32, 0.5))
        for node in sketch.nodes:
            node.attribute.append(onnx.helper.make_attribute("axis", 0))
        return sketch.conv(sketch.pair("images", "entry"), "conv1", weight=weight)

    prediction = drawn(draw)
    assert broken(prediction) == set()
    assert layer(prediction, "conv1") == ("int8", None)


@pytest.mark.parametrize(
    ("groups", "width", "rules", "precision"),
    [
        (8, 4, {"grouped_is_slow", "small_layers_stay_float"}, "int8"),
        (16, 2, {"groups_have_whole_words"}, "fp16"),
        (32, 1, {"grouped_is_slow", "small_layers_stay_float"}, "int8"),
    ],
)
def test_groups(groups: int, width: int, rules: set[str], precision: str) -> None:
    prediction = drawn(lambda sketch: sketch.conv(sketch.pair("images", "entry"), "conv1", group=groups))
    assert {rule for _, rule, breaks in broken(prediction) if breaks != "build"} == rules
    assert layer(prediction, "conv1")[0] == precision
    assert prediction.builds == (precision == "int8")  # a grouped convolution in FP16 has no kernel in TensorRT 11.2


def test_channels_that_are_padded() -> None:
    prediction = drawn(lambda sketch: sketch.conv(sketch.pair("images", "entry"), "conv1", cin=48), channels=48)
    assert broken(prediction) == {("conv1", "channels_fill_kernels", "speed")}
    odd = drawn(lambda sketch: sketch.conv(sketch.pair("images", "entry"), "conv1", cin=13, cout=33), channels=13)
    assert {rule for _, rule, _ in broken(odd)} == {"channels_fill_kernels", "small_layers_stay_float"}


def test_a_stem_is_quantized_before_it_is_pooled() -> None:
    def draw(sketch: Sketch, apart: bool) -> str:
        made = sketch.op("Relu", sketch.conv(sketch.pair("images", "entry"), "stem", cin=3), name="relu")
        pooled = sketch.op("MaxPool", sketch.pair(made, "before") if apart else made, name="pool", kernel_shape=[2, 2])
        return sketch.conv(sketch.pair(pooled, "behind"), "conv1")

    together = drawn(lambda sketch: draw(sketch, apart=False), channels=3)
    assert broken(together) == {("stem", "stem_is_quantized_before_pooling", "build")}
    apart = drawn(lambda sketch: draw(sketch, apart=True), channels=3)
    assert broken(apart) == set()
    assert layer(apart, "pool") == layer(together, "pool") == ("int8", None)


def test_pools_and_gates() -> None:
    def draw(sketch: Sketch) -> str:
        entry = sketch.pair("images", "entry")
        average = sketch.op("AveragePool", entry, name="average", kernel_shape=[2, 2])
        gate = sketch.op("Sigmoid", sketch.pair(average, "closed"), name="gate")
        return sketch.op("GlobalAveragePool", sketch.pair(gate, "gated"), name="global")

    prediction = drawn(draw)
    assert layer(prediction, "average") == ("int8", None)
    assert layer(prediction, "global") == ("fp16", None)
    assert broken(prediction) == {("gate", "no_round_trip", "speed")}


def test_with_fp32_scales_the_rest_is_fp32() -> None:
    prediction = drawn(lambda sketch: sketch.block(closed=False), floats=np.float32)
    assert ("pool", "scales_are_half", "speed") in broken(prediction)
    assert (layer(prediction, "pool")[0], layer(prediction, "conv1")[0]) == ("fp32", "int8")
    assert broken(drawn(lambda sketch: sketch.block(), floats=np.float32)) == set()


def test_integer_operators_are_refused() -> None:
    def draw(sketch: Sketch) -> str:
        sketch.nodes.append(
            onnx.helper.make_node("DynamicQuantizeLinear", ["images"], ["q", "scale", "zero"], name="range")
        )
        return sketch.op("DequantizeLinear", "q", "scale", "zero", name="dq")

    prediction = drawn(draw, floats=np.float32)
    refused = {("range", "no_integer_operators", "build"), ("dq", "scale_is_stored_and_positive", "build")}
    assert refused <= broken(prediction)


def test_every_finding_has_a_source_and_a_sentence() -> None:
    prediction = drawn(lambda sketch: sketch.block(residual=False, trunk=True, closed=False), floats=np.float32)
    assert prediction.findings
    for finding in prediction.findings:
        assert finding.sentence.endswith(".")
        assert finding.source.startswith(("https://", "TensorRT"))
