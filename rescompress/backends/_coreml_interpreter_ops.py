"""The MIL operations that compute, after the MIL operation specification; each function's parameters are the op's own.

Floats arrive and leave as FP32 tensors. Where the specification contradicts itself (``same`` padding at a stride, or of
an even kernel) or leaves a case open, a ``ValueError`` says so: nothing is guessed.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Pads = list[tuple[int, int]]
CONVOLVE: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
POOL_MAX: dict[int, Callable[..., Tensor]] = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}
POOL_MEAN: dict[int, Callable[..., Tensor]] = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}
ALIGNED = {"STRICT_ALIGN_CORNERS": True, "ALIGN_CORNERS": True, "UNALIGN_CORNERS": False}
"""Sampling modes that are one of PyTorch's two grids; two of the specification's are neither."""


def conv(
    x: Float[Tensor, "n c *d"],
    weight: Float[Tensor, "k c_group *kernel"],
    bias: Float[Tensor, " k"] | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | None = None,
) -> Float[Tensor, "n k *e"]:
    """Convolution of one to three spatial dimensions (cross-correlation), accumulated in FP32."""
    kernel, stride, dilation = list(weight.shape[2:]), _ints(strides, weight), _ints(dilations, weight)
    pads = paddings(pad_type, pad, [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)], stride)
    symmetric, x = _padding(x, pads, 0.0)
    count = 1 if groups is None else int(groups)
    return CONVOLVE[x.dim()](x, weight, bias, stride, symmetric, dilation, count)


def paddings(pad_type: str, pad: Tensor | None, kernel: list[int], strides: list[int]) -> Pads:
    """Elements before and after each spatial dimension.

    Args:
        pad_type: ``valid``, ``custom``, ``same`` or ``same_lower``.
        pad: before and after, dimension by dimension; read where the type is ``custom``.
        kernel: its reach along each dimension, dilation included.
        strides: along each dimension.

    Raises:
        ValueError: the specification does not settle it. For ``same`` it gives a size that depends on the stride and
            elements that don't, and for even kernels it puts the odd one at both ends.
    """
    if pad_type == "valid":
        return [(0, 0)] * len(kernel)
    if pad_type == "custom":
        flat = [0] * (2 * len(kernel)) if pad is None else pad.tolist()
        if len(flat) != 2 * len(kernel) or min(flat) < 0:
            raise ValueError(f"pad {flat}")
        return list(zip(flat[::2], flat[1::2], strict=True))
    if pad_type in ("same", "same_lower"):
        if any(k % 2 == 0 for k in kernel) or any(s != 1 for s in strides):
            raise ValueError(f"pad_type {pad_type} with a kernel that reaches over {kernel} at strides {strides}")
        return [(k // 2, k // 2) for k in kernel]
    raise ValueError(f"pad_type {pad_type}")


def linear(
    x: Float[Tensor, "*n d"], weight: Float[Tensor, "k d"], bias: Float[Tensor, " k"] | None = None
) -> Float[Tensor, "*n k"]:
    """``x weight.T + bias``."""
    return F.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor | None = None, transpose_y: Tensor | None = None) -> Tensor:
    """Matrix product of the last two dimensions, the others broadcast; a vector is never transposed."""
    x = x.mT if _true(transpose_x) and x.dim() > 1 else x
    y = y.mT if _true(transpose_y) and y.dim() > 1 else y
    return x @ y


def batch_norm(
    x: Float[Tensor, "n c *d"],
    mean: Float[Tensor, " c"],
    variance: Float[Tensor, " c"],
    gamma: Float[Tensor, " c"] | None = None,
    beta: Float[Tensor, " c"] | None = None,
    epsilon: Float[Tensor, ""] | None = None,
) -> Float[Tensor, "n c *d"]:
    """``γ (x - μ) / sqrt(σ² + ε) + β`` per channel."""
    return F.batch_norm(x, mean, variance, gamma, beta, eps=1e-5 if epsilon is None else float(epsilon))


def layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """``γ (x - mean) / sqrt(variance + ε) + β`` over the last axes.

    Raises:
        ValueError: the axes are not the last ones in order.
    """
    found = _axes(axes, x)
    if [axis % x.dim() for axis in found] != list(range(x.dim() - len(found), x.dim())):
        raise ValueError(f"axes {found} of shape {tuple(x.shape)}")
    return F.layer_norm(x, x.shape[-len(found) :], gamma, beta, 1e-5 if epsilon is None else float(epsilon))


def max_pool(
    x: Float[Tensor, "n c *d"],
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> Float[Tensor, "n c *e"]:
    """The largest value of each window; padding never wins."""
    kernel, stride = kernel_sizes.tolist(), _ints(strides, x)
    pads = paddings(pad_type, pad, kernel, stride)
    symmetric, x = _padding(x, pads, -math.inf, kernel, _true(ceil_mode))
    return POOL_MAX[x.dim()](x, kernel, stride, symmetric, ceil_mode=_true(ceil_mode))


def avg_pool(
    x: Float[Tensor, "n c *d"],
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    exclude_padding_from_average: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> Float[Tensor, "n c *e"]:
    """The mean of each window; padding counts as zeros, or not at all where it is excluded."""
    kernel, stride, exclude = kernel_sizes.tolist(), _ints(strides, x), _true(exclude_padding_from_average)
    pads, pool = paddings(pad_type, pad, kernel, stride), POOL_MEAN[x.dim()]
    symmetric, padded = _padding(x, pads, 0.0, kernel, _true(ceil_mode))
    if padded is x:
        return pool(x, kernel, stride, symmetric, ceil_mode=_true(ceil_mode), count_include_pad=not exclude)
    means = pool(padded, kernel, stride)
    if not exclude:
        return means
    return means / pool(_padding(torch.ones_like(x[:1, :1]), pads, 0.0, kernel)[1], kernel, stride)


def reduce_mean(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | None = None) -> Tensor:
    """The mean over axes, over all of them where none is named."""
    return x.mean(_axes(axes, x), keepdim=_true(keep_dims))


def reduce_sum(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | None = None) -> Tensor:
    """The sum over axes, over all of them where none is named."""
    return x.sum(_axes(axes, x), keepdim=_true(keep_dims), dtype=x.dtype)


def softmax(x: Tensor, axis: Tensor | None = None) -> Tensor:
    """``exp(x) / sum(exp(x))`` along an axis, the last by default."""
    return x.softmax(-1 if axis is None else int(axis))


def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Values limited to ``[alpha, beta]``."""
    return x.clamp(float(alpha), float(beta))


def real_div(x: Tensor, y: Tensor) -> Tensor:
    """``x / y`` in floating point."""
    if not (x.is_floating_point() and y.is_floating_point()):
        raise ValueError("a division of integers")
    return x / y


def rsqrt(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    """``1 / sqrt(x + epsilon)``; epsilon is 1e-12 by default."""
    return torch.rsqrt(x + (1e-12 if epsilon is None else float(epsilon)))


def upsample_bilinear(
    x: Float[Tensor, "n c h w"],
    scale_factor_height: Tensor | None = None,
    scale_factor_width: Tensor | None = None,
    align_corners: Tensor | None = None,
) -> Float[Tensor, "n c h2 w2"]:
    """Bilinear interpolation to ``floor(h scale)`` by ``floor(w scale)``; corners are aligned by default."""
    size = _scaled(x, scale_factor_height, scale_factor_width)
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners is None or bool(align_corners))


def resize_bilinear(
    x: Float[Tensor, "n c h w"],
    target_size_height: Tensor,
    target_size_width: Tensor,
    sampling_mode: str = "DEFAULT",
) -> Float[Tensor, "n c h2 w2"]:
    """Bilinear interpolation to a size, on the grids that PyTorch has."""
    size = (int(target_size_height), int(target_size_width))
    if sampling_mode not in ALIGNED or (sampling_mode == "ALIGN_CORNERS" and 1 in size):
        raise ValueError(f"sampling_mode {sampling_mode} to {size}")
    return F.interpolate(x, size, mode="bilinear", align_corners=ALIGNED[sampling_mode])


def upsample_nearest_neighbor(
    x: Float[Tensor, "n c h w"], scale_factor_height: Tensor | None = None, scale_factor_width: Tensor | None = None
) -> Float[Tensor, "n c h2 w2"]:
    """Each value repeated a whole number of times along height and width."""
    (h, w), (h2, w2) = x.shape[2:], _scaled(x, scale_factor_height, scale_factor_width)
    if h2 % h or w2 % w:
        raise ValueError(f"nearest neighbours of {(h, w)} for {(h2, w2)}")
    return x.repeat_interleave(h2 // h, 2).repeat_interleave(w2 // w, 3)


def _scaled(x: Tensor, height: Tensor | None, width: Tensor | None) -> tuple[int, int]:
    factors = [1.0 if factor is None else float(factor) for factor in (height, width)]
    return math.floor(x.shape[-2] * factors[0]), math.floor(x.shape[-1] * factors[1])


def _padding(
    x: Tensor, pads: Pads, value: float, kernel: list[int] | None = None, ceil_mode: bool = False
) -> tuple[list[int], Tensor]:
    """What PyTorch's own op may pad, the same before and after, and the input padded with the value where it may not.

    Args:
        x: the input.
        pads: before and after each spatial dimension.
        value: of the padding.
        kernel: of a pool, which PyTorch pads by half of it at most; None for a convolution.
        ceil_mode: whether windows may start before the input's end and reach beyond it.
    """
    even = all(before == after for before, after in pads)
    if even and (kernel is None or all(2 * before <= k for (before, _), k in zip(pads, kernel, strict=True))):
        return [before for before, _ in pads], x
    if ceil_mode:
        raise ValueError(f"ceil_mode with pads {pads}")
    flat = [side for pair in reversed(pads) for side in pair]
    return [0] * len(pads), F.pad(x, flat, value=value)


def _ints(values: Tensor | None, x: Tensor) -> list[int]:
    """A number for each spatial dimension, 1 by default."""
    found: list[int] = [1] * (x.dim() - 2) if values is None else values.tolist()
    if len(found) != x.dim() - 2:
        raise ValueError(f"{found} for {x.dim() - 2} dimensions")
    return found


def _axes(axes: Tensor | None, x: Tensor) -> list[int]:
    return list(range(x.dim())) if axes is None else axes.tolist()


def _true(value: Tensor | None) -> bool:
    return value is not None and bool(value)


def _named(*functions: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    return {function.__name__: function for function in functions}


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """An op of one parameter ``x``."""
    return lambda x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """An op of two parameters ``x`` and ``y`` that broadcast."""
    return lambda x, y: function(x, y)


OPS: dict[str, Callable[..., Any]] = {
    **_named(conv, linear, matmul, batch_norm, layer_norm, max_pool, avg_pool, reduce_mean, reduce_sum, softmax),
    **_named(clip, real_div, rsqrt, upsample_bilinear, resize_bilinear, upsample_nearest_neighbor),
    "identity": _unary(lambda x: x),
    "relu": _unary(torch.relu),
    "relu6": _unary(F.relu6),
    "sigmoid": _unary(torch.sigmoid),
    "silu": _unary(F.silu),
    "tanh": _unary(torch.tanh),
    "sqrt": _unary(torch.sqrt),
    "square": _unary(torch.square),
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
}
