"""Integers in MIL: ``quantize`` and ``dequantize`` at run time, ``constexpr_*`` once when the program is loaded.

Formulas are those of the MIL operation specification (iOS16 for ``constexpr_affine_dequantize`` and the packed forms of
``constexpr_lut_to_dense`` and ``constexpr_sparse_to_dense``, iOS17 for ``quantize`` and ``dequantize``, iOS18 for the
rest). Arithmetic is FP32; what is FP16 in the program has been rounded to it before, and is rounded after.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rescompress.backends._coreml_interpreter_file import unpack_bits

INTEGERS = {"int8": torch.int8, "uint8": torch.uint8}


def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: Tensor | None = None
) -> Tensor:
    """``clip(round(input / s) + z)``, halves to even, saturated at the dtype's limits."""
    if output_dtype not in INTEGERS:
        raise ValueError(f"output_dtype {output_dtype}")
    dtype = INTEGERS[output_dtype]
    if zero_point is not None and zero_point.dtype != dtype:
        raise ValueError(f"a zero_point of {zero_point.dtype} for {output_dtype}")
    s, z = _along(scale, input, axis), _along(zero_point, input, axis)
    limits = torch.iinfo(dtype)
    return torch.round(input / s).add_(z).clamp_(limits.min, limits.max).to(dtype)


def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """``s * (input - z)``."""
    return (input.float() - _along(zero_point, input, axis)) * _along(scale, input, axis)


def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor) -> Tensor:
    """``s * (quantized_data - z)``, the scale one number or one per index of the axis."""
    return dequantize(quantized_data, scale, zero_point, axis)


def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """``s * (data - offset)``; each scale holds for a block of ``data.shape[i] / scale.shape[i]`` along each axis."""
    if offset is not None and offset.shape != scale.shape:
        raise ValueError(f"an offset of shape {tuple(offset.shape)} beside a scale of {tuple(scale.shape)}")
    shifted = data.float() if offset is None else data.float() - _spread(offset.float(), data.shape)
    return shifted * _spread(scale, data.shape)


def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Tensor | None = None, vector_axis: Tensor | None = None
) -> Tensor:
    """Entries of look-up tables in the place of their indices.

    Args:
        indices: with ``shape`` (iOS16) packed, ``log2(len(lut))`` bits each; else (iOS18) one per element or vector.
        lut: ``[palettes]`` (iOS16); ``[groups along each axis..., palettes, vector size]`` (iOS18).
        shape: of the outcome (iOS16).
        vector_axis: along which a vector's elements are laid (iOS18).
    """
    if shape is not None:
        sizes, bits = shape.tolist(), int(math.log2(len(lut)))
        if lut.dim() != 1 or len(lut) not in (2, 4, 16, 64, 256) or vector_axis is not None:
            raise ValueError(f"a look-up table of shape {tuple(lut.shape)}")
        count = math.prod(sizes)
        if indices.numel() != (count * bits + 7) // 8:
            raise ValueError(f"{indices.numel()} bytes of indices for {count} of {bits} bits")
        return lut[torch.from_numpy(unpack_bits(indices.numpy(), bits, count)).long()].reshape(sizes)
    *_, palettes, size = lut.shape
    if lut.dim() != indices.dim() + 2 or (size > 1 and vector_axis is None):
        raise ValueError(f"a look-up table of shape {tuple(lut.shape)} for indices of {tuple(indices.shape)}")
    if indices.numel() and int(indices.max()) >= palettes:
        raise ValueError(f"the index {int(indices.max())} into {palettes} palettes")
    tables = _spread(lut, (*indices.shape, palettes, size))
    chosen = indices.long()[..., None, None].expand(*indices.shape, 1, size)
    vectors = tables.gather(-2, chosen).squeeze(-2)
    if size == 1:
        return vectors.squeeze(-1)
    axis = int(vector_axis) % indices.dim() if vector_axis is not None else 0
    return vectors.movedim(-1, axis + 1).flatten(axis, axis + 1)


def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Tensor | None = None) -> Tensor:
    """Values where a mask is one, zeros elsewhere; with ``shape`` (iOS16) the mask is packed, a bit per element."""
    if shape is not None:
        sizes = shape.tolist()
        mask = torch.from_numpy(unpack_bits(mask.numpy().astype(np.uint8), 1, math.prod(sizes))).reshape(sizes)
    where = mask.bool()
    if int(where.sum()) != nonzero_data.numel():
        raise ValueError(f"{nonzero_data.numel()} values for a mask of {int(where.sum())}")
    dense = torch.zeros(where.shape, dtype=nonzero_data.dtype)
    dense[where] = nonzero_data.flatten()
    return dense


def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """FP16 to FP32: the same values."""
    if output_dtype != "fp32":
        raise ValueError(f"output_dtype {output_dtype}")
    return source_val


def _along(values: Tensor | None, data: Tensor, axis: Tensor | None) -> Tensor:
    """One number, or a vector laid along an axis of the data, as FP32 that broadcasts; none is zero."""
    if values is None:
        return torch.zeros(())
    if values.dim() == 0 or values.numel() == 1:
        return values.float().reshape(())
    if values.dim() != 1 or axis is None or len(values) != data.shape[int(axis)]:
        raise ValueError(f"scales or zero-points of shape {tuple(values.shape)} for {tuple(data.shape)}")
    shape = [1] * data.dim()
    shape[int(axis)] = -1
    return values.float().reshape(shape)


def _spread(values: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Each value repeated over its block, so that the whole has this shape."""
    if values.dim() != len(shape) or any(size % blocks for size, blocks in zip(shape, values.shape, strict=True)):
        raise ValueError(f"blocks of shape {tuple(values.shape)} for {tuple(shape)}")
    for axis, size in enumerate(shape):
        values = values.repeat_interleave(size // values.shape[axis], axis)
    return values


OPS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        quantize,
        dequantize,
        constexpr_affine_dequantize,
        constexpr_blockwise_shift_scale,
        constexpr_lut_to_dense,
        constexpr_sparse_to_dense,
        constexpr_cast,
    )
}
