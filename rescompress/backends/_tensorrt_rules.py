"""What TensorRT wants of Q/DQ and of layers with weights, a function and a source a rule.

Sources are NVIDIA's pages, headers and tools, or threads in its repositories. "Inferred" marks what none of them
says. Nothing here was seen on a GPU.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rescompress.backends._tensorrt_view import ACTIVATIONS, DEQUANTIZE, QUANTIZE, WEIGHTED, View, attribute, name_of

Breaks = Literal["build", "int8", "fusion", "accuracy", "speed"]
"""What a broken rule costs: no engine; a layer in float; a kernel more; right answers; time."""
NVIDIA = (
    "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html"
)
PLACEMENT = f"{NVIDIA} (Q/DQ Layer-Placement Recommendations)"
WEIGHTS = f"{NVIDIA} (Quantized Weights; Weight-Only Quantization)"
ISSUES = "https://github.com/NVIDIA/TensorRT/issues"
PARSER = "https://github.com/onnx/onnx-tensorrt (onnxOpImporters.cpp, QuantDequantLinearHelper)"
STRONG = (
    "https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html (the output has the scale's type);"
    " https://github.com/NVIDIA/Model-Optimizer/blob/main/modelopt/onnx/quantization/quantize.py"
)
HEADER = "https://github.com/NVIDIA/TensorRT/blob/main/include/NvInfer.h"
MODELOPT = "https://github.com/NVIDIA/Model-Optimizer/blob/main/modelopt/onnx/quantization"
ALIGNED, GROUP, SMALL = 32, 4, 16
"""Channels that an INT8 tensor-core kernel takes at a time; channels of a group come in multiples of this; below this
many a layer is small."""


@dataclass(frozen=True)
class Finding:
    """One broken rule.

    Attributes:
        node: name of the node in the ONNX graph.
        rule: name of the rule.
        breaks: what it costs.
        sentence: what is wrong and what follows.
        source: where the rule stands.
    """

    node: str
    rule: str
    breaks: Breaks
    sentence: str
    source: str


Rule = Callable[[View, Any], Finding | None]


def zero_point_is_zero(view: View, node: Any) -> Finding | None:
    """INT8 is symmetric: the parser stops at a zero-point other than 0, or at one that isn't stored."""
    if len(node.input) < 3 or not node.input[2]:
        return None
    zero = view.array(node.input[2])
    if zero is None or zero.any():
        said = "Its zero-point isn't 0, and TensorRT knows symmetric quantization only: the parser refuses it."
        return Finding(name_of(node), "zero_point_is_zero", "build", said, f"{ISSUES}/4698, {ISSUES}/2774")
    scale = view.array(node.input[1])
    if scale is not None and scale.size != zero.size:
        said = "It has not as many zero-points as scales: the parser refuses it."
        return Finding(name_of(node), "zero_point_is_zero", "build", said, PARSER)
    return None


def scale_is_stored_and_positive(view: View, node: Any) -> Finding | None:
    """Scales are constants of the build and greater than 0: one below 6e-8 is 0 in FP16."""
    scale = view.array(node.input[1])
    if scale is None:
        said = "Its scale is computed while the network runs: INT8 scales are constants of the build."
        return Finding(name_of(node), "scale_is_stored_and_positive", "build", said, f"{HEADER} (IQuantizeLayer)")
    if not bool((np.isfinite(scale) & (scale > 0)).all()):
        said = "A scale isn't a positive number, perhaps since FP16 can't hold it: the parser refuses it."
        return Finding(name_of(node), "scale_is_stored_and_positive", "build", said, PARSER)
    return None


def integers_are_signed_bytes(view: View, node: Any) -> Finding | None:
    """Q writes and DQ reads INT8; INT32 biases are refused, UINT8 is read as INT8."""
    kind = view.element_type(node.output[0] if node.op_type == QUANTIZE else node.input[0])
    if kind == "INT32":
        said = "It dequantizes an INT32 bias, and TensorRT dequantizes 8 bits or fewer only: store biases as floats."
        source = "https://github.com/onnx/onnx-tensorrt/issues/850"
        return Finding(name_of(node), "integers_are_signed_bytes", "build", said, source)
    if kind == "UINT8" and view.is_constant(node.input[0]):
        said = "Its integers are stored as UINT8, which only DLA knows: the parser refuses it."
        return Finding(name_of(node), "integers_are_signed_bytes", "build", said, PARSER)
    if kind == "UINT8":
        said = "Its UINT8 is taken for INT8 with a warning: what is above 127 steps is clipped."
        return Finding(name_of(node), "integers_are_signed_bytes", "accuracy", said, PARSER)
    return None


def activations_have_one_scale(view: View, node: Any) -> Finding | None:
    """A scale per channel is for weights alone."""
    scale = view.array(node.input[1])
    if scale is None or scale.size == 1 or view.is_constant(node.input[0]):
        return None
    said = "It has a scale per channel on an activation: no kernel reads such integers."
    return Finding(name_of(node), "activations_have_one_scale", "int8", said, PLACEMENT)


def input_is_dequantized(view: View, node: Any) -> Finding | None:
    """A layer with weights computes in INT8 only if its input comes from a DQ."""
    reader = view.dequantizer(node.input[0])
    if reader is not None:
        scale = view.array(reader.input[1])
        return None if scale is not None and scale.size == 1 else activations_have_one_scale(view, reader)
    if weight_is_dequantized(view, node) is None:
        said = "Its weight is quantized, its input isn't: TensorRT has weights alone in INT4 only, so it takes floats."
        return Finding(name_of(node), "input_is_dequantized", "int8", said, WEIGHTS)
    said = "Neither its input nor its weight comes from a DQ: it computes in float."
    return Finding(name_of(node), "input_is_dequantized", "int8", said, PLACEMENT)


def weight_is_dequantized(view: View, node: Any) -> Finding | None:
    """A layer with weights computes in INT8 only if its weight comes from a DQ, behind stored INT8 or behind a Q."""
    maker = view.maker(node.input[1])
    while maker is not None and maker.op_type == "Transpose":
        maker = view.maker(maker.input[0])
    if maker is None or maker.op_type != DEQUANTIZE:
        said = "Its weight comes from no DQ, perhaps since a tool folded it into floats: it computes in float."
        return Finding(name_of(node), "weight_is_dequantized", "int8", said, PLACEMENT)
    if view.element_type(maker.input[0]) == "INT4":
        said = "Its weight is INT4, which TensorRT has for weights alone and matrix products: it computes in float."
        return Finding(name_of(node), "weight_is_dequantized", "int8", said, WEIGHTS)
    return None


def weight_scales_follow_outputs(view: View, node: Any) -> Finding | None:
    """A weight has one scale per output channel."""
    maker = view.maker(node.input[1])
    scale = view.array(maker.input[1]) if maker is not None and maker.op_type == DEQUANTIZE else None
    if scale is None:
        return None
    shape = view.shape(maker.input[0])
    axis = attribute(maker, "axis", 1) % max(1, len(shape))
    if scale.size == 1:
        if shape and shape[_output_axis(node)] == 1:
            return None
        said = "Its weight has one scale for all channels: per channel costs nothing and rounds finer."
        return Finding(name_of(node), "weight_scales_follow_outputs", "accuracy", said, PLACEMENT)
    if axis != _output_axis(node):
        said = "Its weight's scales run along another axis than its outputs: it computes in float."
        return Finding(name_of(node), "weight_scales_follow_outputs", "int8", said, PLACEMENT)
    return None


def _output_axis(node: Any) -> int:
    """The axis of a layer's weight that counts its outputs."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def groups_have_whole_words(view: View, node: Any) -> Finding | None:
    """Channels of a group come in fours, in and out; depthwise ones have kernels of their own (ModelOpt keeps them)."""
    groups, inside, outside = groups_of(view, node)
    if groups == 1 or (inside == 1 and outside == 1) or not (inside % GROUP or outside % GROUP):
        return None
    said = f"Its groups have {inside} channels in and {outside} out, not a multiple of {GROUP}: it computes in float."
    return Finding(name_of(node), "groups_have_whole_words", "int8", said, f"{HEADER} (IConvolutionLayer::setNbGroups)")


def groups_of(view: View, node: Any) -> tuple[int, int, int]:
    """Number of groups of a convolution, channels in and channels out of each; a matrix product is one group."""
    shape = view.shape(node.input[1])
    if node.op_type != "Conv" or len(shape) < 3:
        return 1, shape[1 - _output_axis(node)] if len(shape) > 1 else 0, shape[_output_axis(node)] if shape else 0
    groups = attribute(node, "group", 1)
    return groups, shape[1], shape[0] // groups


def grouped_is_slow(view: View, node: Any) -> Finding | None:
    """Grouped convolutions in INT8 are slower than in FP16."""
    groups, inside, _ = groups_of(view, node)
    if groups == 1:
        return None
    said = f"It has {groups} groups of {inside} channels: INT8 may be slower than FP16; keep it in float and measure."
    return Finding(name_of(node), "grouped_is_slow", "speed", said, f"{ISSUES}/4529, {ISSUES}/1409")


def channels_fill_kernels(view: View, node: Any) -> Finding | None:
    """Tensor cores take 32 channels at a time; fewer are padded. The three of an image are a known case."""
    groups, inside, outside = groups_of(view, node)
    if groups > 1 or inside <= 4 or not (inside % ALIGNED or (outside % ALIGNED and WEIGHTED[node.op_type] == "conv")):
        return None
    said = f"It has {inside} channels in and {outside} out: INT8 kernels pad them to multiples of {ALIGNED}."
    return Finding(name_of(node), "channels_fill_kernels", "speed", said, f"{ISSUES}/1310")


def small_layers_stay_float(view: View, node: Any) -> Finding | None:
    """NVIDIA's own quantizer leaves small layers in float: products below 16 or of one row, oddly shaped convolutions.

    Convolutions below 16 channels stay INT8 if channels in or out are a multiple of 8, the kernel is square, and the
    other side has 16 or the image is read; in groups, if channels out are a multiple of 8 and kernels 3 or more wide.
    """
    groups, inside, outside = groups_of(view, node)
    source = f"{MODELOPT}/graph_utils.py"
    if WEIGHTED[node.op_type] == "linear":
        rows = view.shape(node.output[0])[:1]
        if min(inside, outside) >= SMALL and rows != (1,):
            return None
        said = f"It multiplies {'one row' if rows == (1,) else f'{inside} by {outside} numbers'}: Q and DQ cost more."
        return Finding(name_of(node), "small_layers_stay_float", "speed", said, f"{source} (MatMuls to exclude)")
    kernel, out = view.shape(node.input[1])[2:], outside * groups
    if min(inside, out) >= SMALL or not kernel:
        return None
    whole = not out % 8 or not inside % 8
    if groups == 1 and whole and len(set(kernel)) == 1 and (inside <= GROUP or max(inside, out) >= SMALL):
        return None
    if groups > 1 and not out % 8 and min(kernel) >= 3:
        return None
    said = f"It has {inside} channels in and {out} out: NVIDIA's quantizer calls that unsupported, and keeps float."
    return Finding(name_of(node), "small_layers_stay_float", "speed", said, f"{source} (Convs to exclude)")


def nothing_between_layer_and_activation(view: View, node: Any) -> Finding | None:
    """A convolution takes BatchNorm and ReLU behind it into its kernel, but not across Q and DQ."""
    behind = view.alone_behind(node)
    if behind is None or behind.op_type != QUANTIZE:
        return None
    pair = view.alone_behind(behind)
    taken = view.alone_behind(pair) if pair is not None and pair.op_type == DEQUANTIZE else None
    if taken is None or taken.op_type not in (*ACTIVATIONS, "BatchNormalization"):
        return None
    said = f"Q and DQ stand between it and {name_of(taken)}, which then runs in a kernel of its own."
    return Finding(name_of(node), "nothing_between_layer_and_activation", "fusion", said, PLACEMENT)


def stem_is_quantized_before_pooling(view: View, node: Any) -> Finding | None:
    """For 3 channels + ReLU + pooling by maximum in one kernel there was no INT8 tactic; Q and DQ keep them apart."""
    if node.op_type != "Conv" or groups_of(view, node)[1] > 4:
        return None
    behind = view.alone_behind(node)
    while behind is not None and behind.op_type in (*ACTIVATIONS, "BatchNormalization"):
        behind = view.alone_behind(behind)
    if behind is None or behind.op_type != "MaxPool":
        return None
    said = "It is pooled before it is quantized: a builder found no INT8 kernel for the two in one."
    source = "TensorRT 10.16.1 on an RTX 3080, one user's log (Error Code 10 at conv1 + relu + maxpool)"
    return Finding(name_of(node), "stem_is_quantized_before_pooling", "build", said, source)


def half_groups_build(view: View, node: Any) -> Finding | None:
    """TensorRT 11.2 has no FP16 kernel for a grouped convolution in a strongly typed network."""
    if groups_of(view, node)[0] == 1 or view.element_type(node.output[0]) not in ("FLOAT16", "BFLOAT16"):
        return None
    said = (
        "It is grouped and computes in half precision, for which TensorRT 11.2 found no kernel: give it FP32 by casts"
    )
    return Finding(name_of(node), "half_groups_build", "build", said, f"{ISSUES}/4838")


PAIRS: tuple[Rule, ...] = (zero_point_is_zero, scale_is_stored_and_positive, integers_are_signed_bytes)
"""Rules of each Q and DQ."""
NEEDED: tuple[Rule, ...] = (
    input_is_dequantized,
    weight_is_dequantized,
    weight_scales_follow_outputs,
    groups_have_whole_words,
)
"""Rules of a layer with weights; one that breaks ``int8`` leaves the layer in float."""
IN_INT8: tuple[Rule, ...] = (
    grouped_is_slow,
    channels_fill_kernels,
    small_layers_stay_float,
    nothing_between_layer_and_activation,
    stem_is_quantized_before_pooling,
)
"""Rules of a layer that computes in INT8."""


def of(view: View, node: Any, rules: tuple[Rule, ...]) -> Iterator[Finding]:
    """The rules that a node breaks.

    Args:
        view: of the graph.
        node: of it.
        rules: to ask.
    """
    return (found for rule in rules if (found := rule(view, node)) is not None)
