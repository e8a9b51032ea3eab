"""What each runtime wants of an INT8 graph: facts with their sources, one `QuantScheme` a runtime."""

from dataclasses import dataclass, replace
from typing import Literal

from rescompress.errors import RecipeError

CPU = Literal["avx2", "vnni", "arm"]
"""The processor that an artifact is made for."""


@dataclass(frozen=True)
class QuantScheme:
    """What one runtime wants of an INT8 graph. Facts about the runtime, not choices of the user.

    Attributes:
        runtime: the backend whose facts these are.
        activation_dtype: integer type of activations.
        symmetric_activations: the zero-point of activations is 0.
        per_channel_weights: one weight scale per output channel, else one per tensor.
        quantized_ops: graph ops whose activation inputs become INT8.
        passing_ops: ops that only move values: their output keeps the scale of their input.
        closed_ops: quantized ops that run in INT8 only if their output, after ReLU, is INT8 too.
        add_inputs: which inputs of a residual add become INT8: both, or only the shortcut, where the runtime computes
            the add inside the convolution that makes the other input.
        float_before: ops whose input is made by no INT8 layer: such a layer stays float.
        quantized_logits: the logits become INT8 too, because the layer that makes them is closed; else they stay float.
        fixed_ranges: ops whose integer kernel writes one range only: op, smallest and largest real number.
        pixels: images may be padded, scaled and shifted in float before they are rounded, at hardly any cost.
    """

    runtime: str
    activation_dtype: Literal["uint8", "int8"]
    symmetric_activations: bool
    per_channel_weights: bool
    quantized_ops: tuple[str, ...]
    passing_ops: tuple[str, ...]
    closed_ops: tuple[str, ...] = ()
    add_inputs: Literal["both", "shortcut"] = "both"
    float_before: tuple[str, ...] = ()
    quantized_logits: bool = False
    fixed_ranges: tuple[tuple[str, float, float], ...] = ()
    pixels: bool = False


TENSORRT = QuantScheme(
    runtime="tensorrt",
    activation_dtype="int8",
    symmetric_activations=True,
    per_channel_weights=True,
    quantized_ops=("conv", "linear", "add"),
    passing_ops=("max_pool", "reshape"),
    closed_ops=("add",),
    add_inputs="shortcut",
)
"""Signed, zero-point 0, weight scales per channel (`IQuantizeLayer`: INT8 is symmetric only).

A convolution, the add behind it and the ReLU behind that become one kernel if the add's other input, the shortcut, is
INT8 and nothing stands between convolution and add (NVIDIA, "Explicit Quantization": Q/DQ layer placement; the
`residual_quantizer` of pytorch-quantization's `quant_resnet50` and ModelOpt's ONNX files have the same pattern).
"The fused operator's output precision must match the residual input precision" (`quant_resnet50`), so an add is closed:
before global pooling, where pytorch-quantization has a Q too, and before the BatchNorm behind a pre-activation stage.
It costs 0.1 dB of the logits (digits, ResNet-20). Pooling by maximum commutes with Q. Global pooling is a `Reduce`
layer, which may read INT8 and averages floats. Logits stay float: an INT8 kernel may write float.
"""

ONNXRUNTIME = QuantScheme(
    runtime="onnxruntime",
    activation_dtype="uint8",
    symmetric_activations=False,
    per_channel_weights=True,
    quantized_ops=("conv", "linear", "add", "mul", "sigmoid", "avg_pool"),
    passing_ops=("max_pool", "reshape"),
    closed_ops=("conv", "add", "mul", "sigmoid", "avg_pool"),
    pixels=True,
)
"""On x86: unsigned activations, signed weights per channel, every op between the convolutions in INT8 too.

Measured on AVX2: this takes 0.53 of FP32's time for ResNet-18, signed activations 0.92, no Q before the residual add
1.3-2 times FP32's. `QLinearConv`, `QLinearAdd`, `QLinearMul`, `QLinearSigmoid` and the pools write integers only;
`QGemm` may write float (com.microsoft operators), so the logits do.
"""

ONNXRUNTIME_ARM = replace(ONNXRUNTIME, activation_dtype="int8")
"""On Arm: as on x86, but signed activations, whose zero-point stays free.

Arm's dot product (`SDOT`) multiplies signed by signed, and MLAS's fast kernels for symmetric filters
(`MlasConvSym`, `MlasSymmQgemm`) want the *weight's* zero-point to be 0, not the activation's. With 32-bit accumulation
nothing saturates. Recalled, neither read up nor measured.
"""

OPENVINO = QuantScheme(
    runtime="openvino",
    activation_dtype="uint8",
    symmetric_activations=False,
    per_channel_weights=True,
    quantized_ops=("conv", "linear", "add", "mul", "avg_pool"),
    passing_ops=("max_pool", "reshape"),
    add_inputs="shortcut",
    float_before=("sigmoid",),
    pixels=True,
)
"""Unsigned activations, one scale per tensor (its low-precision transformations: "Dequantization on activations must
be per-tensor"), signed weights per channel; any INT8 op may write float, so none is closed.

A convolution adds the shortcut to its own sum before it rounds. Q between the two is left out by the kernel, so it
makes nothing faster, and eager, which rounds there, differs more: on ResNet-20, 36 dB instead of 46.
Measured on AVX2: ONNX Runtime's u8 x s8 graph runs as fast as NNCF's own (0.46-0.51 of ONNX Runtime's FP32), a
symmetric signed one takes 0.52. A sigmoid computes in float; where the layer before it is INT8, every convolution of
the network computes in float too (2026.4, 21 of 21 in an SE-ResNet-20).
"""

COREML = QuantScheme(
    runtime="coreml",
    activation_dtype="int8",
    symmetric_activations=True,
    per_channel_weights=True,
    quantized_ops=("conv", "linear", "add", "avg_pool"),
    passing_ops=("max_pool", "reshape"),
)
"""W8A8 from iOS 17 on: signed, symmetric, one scale per activation tensor and one per output channel of a weight.

coremltools: `linear_symmetric` and symmetric `LinearQuantizer` are the defaults, and both inputs of an add are
quantized (its PyTorch quantizer puts 32 pairs into ResNet-18). INT8 x INT8 kernels exist on the Neural Engine of the
A17 Pro and M4 and later; what else runs there in INT8 isn't documented, and nothing was measured here.
"""

LITERT = QuantScheme(
    runtime="litert",
    activation_dtype="int8",
    symmetric_activations=False,
    per_channel_weights=True,
    quantized_ops=("conv", "linear", "add", "mul", "sigmoid", "avg_pool"),
    passing_ops=("max_pool", "reshape", "slice", "unsqueeze"),
    closed_ops=("conv", "linear", "add", "mul", "sigmoid", "avg_pool"),
    quantized_logits=True,
    fixed_ranges=(("sigmoid", 0.0, 255 / 256),),
)
"""LiteRT's 8-bit quantization specification: activations in [-128, 127] with a free zero-point, one scale per tensor;
weights in [-127, 127] with zero-point 0, per output channel.

Each INT8 operator reads and writes INT8, `FULLY_CONNECTED` too, so the logits are integers that a DEQUANTIZE makes
float. `MAX_POOL_2D` and `RESHAPE` (slices and unsqueezes too) keep their input's scale. `MEAN`, which global pooling
becomes, has its own; `AVERAGE_POOL_2D` keeps its input's, which the converter sees to; `LOGISTIC` writes scale 1/256,
zero-point -128.
"""

SCHEMES: dict[str, QuantScheme] = {
    scheme.runtime: scheme for scheme in (TENSORRT, ONNXRUNTIME, OPENVINO, COREML, LITERT)
}
"""The schemes by runtime, for x86 where the processor matters."""

_ON_ARM = {"onnxruntime": ONNXRUNTIME_ARM}


def scheme_for(runtime: str, cpu: CPU = "avx2") -> QuantScheme:
    """What a runtime wants on a processor.

    ``avx2`` and ``vnni`` share a scheme: what saturates without VNNI is mended in the scales, not in the types.

    Args:
        runtime: a backend's name.
        cpu: what the artifact is made for; runtimes that bring their own accelerator don't care.

    Raises:
        RecipeError: no facts are known of the runtime.
    """
    if runtime not in SCHEMES:
        raise RecipeError(f"No quantization scheme is known for {runtime}.", f"Choose one of {', '.join(SCHEMES)}.")
    return (_ON_ARM if cpu == "arm" else {}).get(runtime, SCHEMES[runtime])
