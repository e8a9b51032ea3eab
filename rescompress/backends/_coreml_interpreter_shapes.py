"""The MIL operations that move values, change shapes or types, after the MIL operation specification."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int32
from torch import Tensor

DTYPES = {
    "bool": torch.bool,
    "fp16": torch.float32,  # rounded by whoever stores it
    "fp32": torch.float32,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "uint8": torch.uint8,
}
"""Types that ``cast`` gives."""
Values = Tensor | tuple[Tensor, ...]


def cast(x: Tensor, dtype: str) -> Tensor:
    """The same values in another type; floats lose their fraction.

    Raises:
        ValueError: a value does not fit, for which the specification has no rule.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}")
    to = DTYPES[dtype]
    if not to.is_floating_point and to != torch.bool and x.dtype != torch.bool:
        limits, whole = torch.iinfo(to), x.double().trunc()
        if not bool(((whole >= limits.min) & (whole <= limits.max)).all()):
            raise ValueError(f"values that don't fit into {dtype}")
    return x.to(to)


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    """The same values in another shape.

    One -1 takes what is left. A zero takes the dimension of ``x`` at the same place from the right, or 1 where there is
    none (iOS17; before, zeros needed a shape of the same rank, for which this is the same).
    """
    sizes = shape.tolist()
    for place, size in enumerate(sizes):
        source = x.dim() - len(sizes) + place
        if size == 0:
            sizes[place] = x.shape[source] if source >= 0 else 1
    return x.reshape(sizes)


def transpose(x: Tensor, perm: Tensor) -> Tensor:
    """Axes in another order: axis ``i`` of the outcome is axis ``perm[i]`` of ``x``."""
    return x.permute(perm.tolist())


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    """Axes of length 1, counted in the outcome."""
    rank = x.dim() + axes.numel()
    for axis in sorted(axis % rank for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without these axes of length 1; without all such where none is named."""
    if axes is None:
        return x.squeeze()
    wide = [axis for axis in axes.tolist() if x.shape[axis] != 1]
    if wide:
        raise ValueError(f"axes {wide} of shape {tuple(x.shape)}")
    return x.squeeze(tuple(axes.tolist()))


def concat(values: Values, axis: Tensor, interleave: Tensor | None = None) -> Tensor:
    """Tensors one behind the other along an axis; interleaved, in turns of one index each."""
    tensors, along = values if isinstance(values, tuple) else (values,), int(axis)
    if interleave is None or not bool(interleave):
        return torch.cat(tensors, along)
    along %= tensors[0].dim()
    return torch.stack(tensors, along + 1).flatten(along, along + 1)


def stack(values: Values, axis: Tensor) -> Tensor:
    """Tensors of one shape along a new axis."""
    return torch.stack(values if isinstance(values, tuple) else (values,), int(axis))


def tile(x: Tensor, reps: Tensor) -> Tensor:
    """The whole repeated so many times along each axis."""
    if reps.numel() != x.dim():
        raise ValueError(f"reps {reps.tolist()} for {x.dim()} axes")
    return x.repeat(reps.tolist())


def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Parts along an axis, of these sizes or all alike."""
    along = int(axis)
    if split_sizes is None and (num_splits is None or x.shape[along] % int(num_splits)):
        raise ValueError(f"a split of {x.shape[along]}")
    sections = int(num_splits) if num_splits is not None else 0
    sizes = [x.shape[along] // sections] * sections if split_sizes is None else split_sizes.tolist()
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    if sum(sizes) != x.shape[along]:
        raise ValueError(f"a split of {x.shape[along]} into {sizes}")
    return tuple(x.narrow(along, start, size) for start, size in zip(starts, sizes, strict=True))


def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """``x[begin:end:stride, ...]`` with NumPy's rules; masked ends are open, a squeezed axis is indexed."""
    off = [False] * x.dim()
    masks = [off if mask is None else mask.tolist() for mask in (begin_mask, end_mask, squeeze_mask)]
    steps = [1] * x.dim() if stride is None else stride.tolist()
    if any(step < 1 for step in steps):
        raise ValueError(f"stride {steps}")
    index: list[Any] = []
    rows = zip(begin.tolist(), end.tolist(), steps, *masks, strict=True)
    for first, last, step, open_begin, open_end, indexed in rows:
        index.append(first if indexed else slice(None if open_begin else first, None if open_end else last, step))
    return x[tuple(index)]


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """So many elements of each axis from an index on; -1 takes all that are left."""
    for axis, (first, count) in enumerate(zip(begin.tolist(), size.tolist(), strict=True)):
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | None = None) -> Tensor:
    """Elements before and after each of the last axes, in order: constants, mirrored, or the nearest ones."""
    pairs = pad.reshape(-1, 2).tolist()
    if mode not in ("constant", "reflect", "replicate") or min(map(min, pairs)) < 0:
        raise ValueError(f"mode {mode} with pad {pairs}")
    flat = [side for pair in reversed(pairs) for side in pair]
    if mode == "constant":
        return F.pad(x, flat, value=0.0 if constant_val is None else float(constant_val))
    while len(flat) > 2 and not any(flat[-2:]):
        flat = flat[:-2]  # PyTorch mirrors all axes but the first ones
    return F.pad(x, flat, mode)


def shape(x: Tensor) -> Int32[Tensor, " rank"]:
    """The size of each axis."""
    return torch.tensor(x.shape, dtype=torch.int32)


def gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | None = None,
    batch_dims: Tensor | None = None,
    validate_indices: Tensor | None = None,
) -> Tensor:
    """Slices of ``x`` along an axis, in the order of the indices.

    Raises:
        ValueError: an index is outside of the axis (iOS17 leaves open what a negative one means), or batches are asked
            for, which our programs don't.
    """
    along = 0 if axis is None else int(axis) % x.dim()
    if batch_dims is not None and int(batch_dims):
        raise ValueError(f"batch_dims {int(batch_dims)}")
    found = indices.long()
    if not bool(((found >= 0) & (found < x.shape[along])).all()):
        raise ValueError(f"indices outside of the {x.shape[along]} that axis {along} has")
    return x.index_select(along, found.flatten()).reshape(*x.shape[:along], *found.shape, *x.shape[along + 1 :])


def classify(probabilities: Tensor, classes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The place of the likeliest class, and the probabilities in the order of the classes as one row."""
    if probabilities.numel() != len(classes) or math.prod(probabilities.shape[:-1]) != 1:
        raise ValueError(f"probabilities of shape {tuple(probabilities.shape)} for {len(classes)} classes")
    row = probabilities.reshape(1, -1)
    return row.argmax(1), row


OPS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *(cast, reshape, transpose, expand_dims, squeeze, concat, stack, tile, split, slice_by_index),
        *(slice_by_size, pad, shape, gather, classify),
    )
}
