"""Each MIL operation that computes, against the specification's formula written out in NumPy."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rescompress.backends import _coreml_interpreter_ops as ops
from tests.backends.mil import needs_coremltools, noise, together

Array = NDArray[Any]
X, ROWS, MATRICES = noise(2, 4, 7, 9), noise(2, 6, seed=1), noise(3, 2, 6, seed=2)
WEIGHT, GROUPED, THIN = noise(6, 4, 3, 3, seed=3), noise(8, 2, 3, 2, seed=4), noise(6, 4, 1, 1, seed=5)
BIAS, GAMMA, BETA, MEAN = (noise(4, seed=seed) for seed in range(6, 10))
VARIANCE = noise(4, seed=10) ** 2 + 0.1
FC, FC_BIAS = noise(5, 6, seed=11), noise(5, seed=12)


def padded(x: Array, pads: list[tuple[int, int]], value: float = 0.0) -> Array:
    return np.pad(x, [(0, 0), (0, 0), *pads], constant_values=value)


def convolved(
    x: Array, w: Array, strides: list[int], pads: list[tuple[int, int]], dilations: list[int], groups: int = 1
) -> Array:
    """``sum over c, a of w[k, c, a] x[c, s i + d a]``, each group of channels by itself, in double precision."""
    x = padded(x, pads).astype(np.float64)
    sizes = [
        (size - (k - 1) * d - 1) // s + 1
        for size, k, s, d in zip(x.shape[2:], w.shape[2:], strides, dilations, strict=True)
    ]
    out = np.zeros((len(x), len(w), *sizes))
    for group in range(groups):
        inputs = x[:, group * w.shape[1] : (group + 1) * w.shape[1]]
        rows = slice(group * len(w) // groups, (group + 1) * len(w) // groups)
        for place in itertools.product(*map(range, w.shape[2:])):
            steps = zip(place, sizes, strides, dilations, strict=True)
            cut = tuple(slice(a * d, a * d + (size - 1) * s + 1, s) for a, size, s, d in steps)
            out[:, rows] += np.einsum("nc...,kc->nk...", inputs[(..., *cut)], w[(rows, slice(None), *place)])
    return out


def windows(x: Array, kernel: int, stride: int, pad: tuple[int, int], ceil: bool) -> Iterator[tuple[int, int, Array]]:
    """Places of a square pool's windows in its output, and what of the padded input each one sees."""
    sizes = []
    for size in x.shape[2:]:
        rounded = math.ceil if ceil else math.floor
        out = rounded((size + sum(pad) - kernel) / stride) + 1
        sizes.append(out - 1 if ceil and (out - 1) * stride >= size + pad[0] and sum(pad) > 0 else out)
    x = padded(x, [pad, pad], np.nan)
    for i, j in itertools.product(*map(range, sizes)):
        yield i, j, x[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel]


def pooled(x: Array, kernel: int, stride: int, pad: tuple[int, int], how: Any, ceil: bool = False) -> Array:
    found = list(windows(x, kernel, stride, pad, ceil))
    out = np.empty((*x.shape[:2], found[-1][0] + 1, found[-1][1] + 1))
    for i, j, window in found:
        out[:, :, i, j] = how(window.reshape(*x.shape[:2], -1))
    return out


def highest(window: Array) -> Array:
    return np.nanmax(window, -1)


def mean_with_zeros(window: Array) -> Array:
    return np.nan_to_num(window).mean(-1)


def mean_without(window: Array) -> Array:
    return np.nanmean(window, -1)


def interpolated(x: Array, sizes: tuple[int, int], aligned: bool) -> Array:
    """Linear interpolation along both axes on the specification's grid points."""
    for axis, out in zip((2, 3), sizes, strict=True):
        size, i = x.shape[axis], np.arange(out)
        spacing = (size - 1) / (out - 1) if aligned else size / out
        points = np.clip(i * spacing if aligned else i * spacing + 0.5 * spacing - 0.5, 0, size - 1)
        x = np.apply_along_axis(lambda row, points=points: np.interp(points, np.arange(len(row)), row), axis, x)
    return x


def column(values: Array) -> Array:
    return values[:, None, None]


def normalized(x: Array, axes: tuple[int, ...]) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


CUSTOM = {"pad_type": "custom", "pad": [1, 2, 0, 3]}
CASES: dict[str, tuple[Any, Any]] = {
    "conv_valid": (
        lambda mb, x, **_: mb.conv(x=x, weight=WEIGHT, pad_type="valid"),
        lambda: convolved(X, WEIGHT, [1, 1], [(0, 0)] * 2, [1, 1]),
    ),
    "conv_bias": (
        lambda mb, x, **_: mb.conv(x=x, weight=THIN, bias=noise(6), pad_type="valid", strides=[2, 3]),
        lambda: convolved(X, THIN, [2, 3], [(0, 0)] * 2, [1, 1]) + column(noise(6)),
    ),
    "conv_custom": (
        lambda mb, x, **_: mb.conv(x=x, weight=WEIGHT, **CUSTOM, strides=[2, 1], dilations=[2, 3]),
        lambda: convolved(X, WEIGHT, [2, 1], [(1, 2), (0, 3)], [2, 3]),
    ),
    "conv_same": (
        lambda mb, x, **_: mb.conv(x=x, weight=WEIGHT, pad_type="same", dilations=[1, 2]),
        lambda: convolved(X, WEIGHT, [1, 1], [(1, 1), (2, 2)], [1, 2]),
    ),
    "conv_groups": (
        lambda mb, x, **_: mb.conv(x=x, weight=GROUPED, pad_type="valid", groups=2),
        lambda: convolved(X, GROUPED, [1, 1], [(0, 0)] * 2, [1, 1], 2),
    ),
    "conv_1d": (
        lambda mb, matrices, **_: mb.conv(x=matrices, weight=noise(3, 2, 3), pad_type="custom", pad=[2, 0]),
        lambda: convolved(MATRICES, noise(3, 2, 3), [1], [(2, 0)], [1]),
    ),
    "linear": (lambda mb, rows, **_: mb.linear(x=rows, weight=FC, bias=FC_BIAS), lambda: ROWS @ FC.T + FC_BIAS),
    "linear_plain": (lambda mb, matrices, **_: mb.linear(x=matrices, weight=FC), lambda: MATRICES @ FC.T),
    "matmul": (
        lambda mb, matrices, rows, **_: mb.matmul(x=matrices, y=rows, transpose_x=True),
        lambda: np.einsum("bki,kj->bij", MATRICES, ROWS),
    ),
    "matmul_y": (
        lambda mb, matrices, rows, **_: mb.matmul(x=matrices, y=rows, transpose_y=True),
        lambda: np.einsum("bik,jk->bij", MATRICES, ROWS),
    ),
    "batch_norm": (
        lambda mb, x, **_: mb.batch_norm(
            x=x, mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA, epsilon=np.float32(0.01)
        ),
        lambda: column(GAMMA) * (X - column(MEAN)) / np.sqrt(column(VARIANCE) + 0.01) + column(BETA),
    ),
    "batch_norm_plain": (
        lambda mb, x, **_: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE),
        lambda: (X - column(MEAN)) / np.sqrt(column(VARIANCE) + 1e-5),
    ),
    "layer_norm": (
        lambda mb, x, **_: mb.layer_norm(x=x, axes=[2, 3], gamma=noise(7, 9), beta=noise(7, 9, seed=1)),
        lambda: normalized(X, (2, 3)) * noise(7, 9) + noise(7, 9, seed=1),
    ),
    "max_pool": (
        lambda mb, x, **_: mb.max_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda: pooled(X, 3, 2, (1, 1), highest),
    ),
    "max_pool_uneven": (
        lambda mb, x, **_: mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="custom", pad=[0, 1, 0, 1]),
        lambda: pooled(X, 2, 2, (0, 1), highest),
    ),
    "max_pool_ceil": (
        lambda mb, x, **_: mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", ceil_mode=True),
        lambda: pooled(X, 2, 2, (0, 0), highest, ceil=True),
    ),
    "avg_pool": (
        lambda mb, x, **_: mb.avg_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda: pooled(X, 3, 2, (1, 1), mean_with_zeros),
    ),
    "avg_pool_same": (
        lambda mb, x, **_: mb.avg_pool(x=x, kernel_sizes=[3, 3], pad_type="same", exclude_padding_from_average=True),
        lambda: pooled(X, 3, 1, (1, 1), mean_without),
    ),
    "avg_pool_uneven": (
        lambda mb, x, **_: mb.avg_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="custom", pad=[0, 1, 0, 1]),
        lambda: pooled(X, 2, 2, (0, 1), mean_with_zeros),
    ),
    "avg_pool_uneven_excluded": (
        lambda mb, x, **_: mb.avg_pool(
            x=x,
            kernel_sizes=[2, 2],
            strides=[2, 2],
            pad_type="custom",
            pad=[0, 1, 0, 1],
            exclude_padding_from_average=True,
        ),
        lambda: pooled(X, 2, 2, (0, 1), mean_without),
    ),
    "avg_pool_ceil": (
        lambda mb, x, **_: mb.avg_pool(
            x=x,
            kernel_sizes=[2, 2],
            strides=[2, 2],
            pad_type="valid",
            ceil_mode=True,
            exclude_padding_from_average=True,
        ),
        lambda: pooled(X, 2, 2, (0, 0), lambda window: np.mean(window, -1), ceil=True),
    ),
    "avg_pool_ceil_padded": (
        lambda mb, x, **_: mb.avg_pool(
            x=mb.slice_by_size(x=x, begin=[0, 0, 0, 0], size=[2, 4, 6, 8]),
            kernel_sizes=[3, 3],
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            ceil_mode=True,
        ),
        lambda: pooled(X[:, :, :6, :8], 3, 2, (1, 1), mean_with_zeros, ceil=True),
    ),
    "reduce_mean": (lambda mb, x, **_: mb.reduce_mean(x=x, axes=[2, -1]), lambda: X.mean((2, 3))),
    "reduce_mean_kept": (
        lambda mb, x, **_: mb.reduce_mean(x=x, axes=[1], keep_dims=True),
        lambda: X.mean(1, keepdims=True),
    ),
    "reduce_sum": (lambda mb, x, **_: mb.reduce_sum(x=x, axes=[0]), lambda: X.sum(0)),
    "softmax": (
        lambda mb, x, **_: mb.softmax(x=x, axis=1),
        lambda: np.exp(X) / np.exp(X).sum(1, keepdims=True),
    ),
    "softmax_last": (
        lambda mb, rows, **_: mb.softmax(x=rows),
        lambda: np.exp(ROWS) / np.exp(ROWS).sum(-1, keepdims=True),
    ),
    "relu": (lambda mb, x, **_: mb.relu(x=x), lambda: np.maximum(X, 0)),
    "relu6": (lambda mb, x, **_: mb.relu6(x=mb.mul(x=x, y=9.0)), lambda: np.clip(X * 9, 0, 6)),
    "sigmoid": (lambda mb, x, **_: mb.sigmoid(x=x), lambda: sigmoid(X)),
    "silu": (lambda mb, x, **_: mb.silu(x=x), lambda: X * sigmoid(X)),
    "tanh": (lambda mb, x, **_: mb.tanh(x=x), lambda: (np.exp(2 * X) - 1) / (np.exp(2 * X) + 1)),
    "square": (lambda mb, x, **_: mb.square(x=x), lambda: X * X),
    "sqrt": (lambda mb, x, **_: mb.sqrt(x=mb.square(x=x)), lambda: np.abs(X)),
    "rsqrt": (
        lambda mb, x, **_: mb.rsqrt(x=mb.square(x=x), epsilon=np.float32(0.5)),
        lambda: (X.astype(np.float64) ** 2 + 0.5) ** -0.5,
    ),
    "clip": (
        lambda mb, x, **_: mb.clip(x=x, alpha=np.float32(-0.5), beta=np.float32(0.25)),
        lambda: np.clip(X, -0.5, 0.25),
    ),
    "add": (lambda mb, x, **_: mb.add(x=x, y=column(BETA)), lambda: X + column(BETA)),
    "sub": (lambda mb, x, **_: mb.sub(x=x, y=column(BETA)), lambda: X - column(BETA)),
    "mul": (lambda mb, x, **_: mb.mul(x=x, y=column(BETA)), lambda: X * column(BETA)),
    "real_div": (lambda mb, x, **_: mb.real_div(x=x, y=column(VARIANCE)), lambda: X / column(VARIANCE)),
    "maximum": (
        lambda mb, x, **_: mb.maximum(x=x, y=column(BETA)),
        lambda: X + np.maximum(column(BETA) - X, 0),
    ),
    "minimum": (
        lambda mb, x, **_: mb.minimum(x=x, y=column(BETA)),
        lambda: X + np.minimum(column(BETA) - X, 0),
    ),
    "identity": (lambda mb, x, **_: mb.identity(x=x), lambda: X),
    "upsample_aligned": (
        lambda mb, x, **_: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3),
        lambda: interpolated(X, (14, 27), True),
    ),
    "upsample": (
        lambda mb, x, **_: mb.upsample_bilinear(
            x=x, scale_factor_height=2.5, scale_factor_width=2.0, align_corners=False
        ),
        lambda: interpolated(X, (17, 18), False),
    ),
    "resize": (
        lambda mb, x, **_: mb.resize_bilinear(
            x=x, target_size_height=11, target_size_width=4, sampling_mode="UNALIGN_CORNERS"
        ),
        lambda: interpolated(X, (11, 4), False),
    ),
    "nearest": (
        lambda mb, x, **_: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        lambda: np.kron(X, np.ones((1, 1, 2, 3))),
    ),
}


@pytest.fixture(scope="module")
def answers() -> dict[str, Array]:
    return together({name: body for name, (body, _) in CASES.items()}, x=X, rows=ROWS, matrices=MATRICES)


@needs_coremltools
@pytest.mark.parametrize("name", CASES)
def test_operation_computes_the_formula_of_the_specification(name, answers):
    expected = CASES[name][1]()
    assert answers[name].shape == expected.shape
    np.testing.assert_allclose(answers[name], expected, rtol=2e-5, atol=2e-5)


@st.composite
def convolutions(draw):
    kernel, strides, dilations = ([draw(st.integers(1, 3)) for _ in range(2)] for _ in range(3))
    pads = [(draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(2)]
    groups = draw(st.sampled_from((1, 2)))
    sizes = [(k - 1) * d + draw(st.integers(1, 5)) for k, d in zip(kernel, dilations, strict=True)]
    return noise(2, 2 * groups, *sizes), noise(2 * groups, 2, *kernel, seed=1), strides, pads, dilations, groups


@given(convolutions())
def test_convolution_pads_strides_and_dilates_as_written(case):
    x, w, strides, pads, dilations, groups = case
    pad = torch.tensor(pads).flatten()
    numbers = (torch.tensor(values) for values in (dilations, groups))
    got = ops.conv(torch.from_numpy(x), torch.from_numpy(w), None, torch.tensor(strides), "custom", pad, *numbers)
    np.testing.assert_allclose(got.numpy(), convolved(x, w, strides, pads, dilations, groups), rtol=1e-5, atol=1e-5)


@given(st.integers(1, 4), st.integers(1, 3), st.tuples(st.integers(0, 3), st.integers(0, 3)), st.booleans())
def test_pools_pad_as_written(kernel, stride, pad, exclude):
    x, sizes, strides = torch.from_numpy(X), torch.tensor([kernel] * 2), torch.tensor([stride] * 2)
    if max(pad) >= kernel:
        pad = (0, 0)  # a window of padding alone has no mean
    pads = torch.tensor([*pad, *pad])
    got = ops.max_pool(x, sizes, "custom", strides, pads)
    np.testing.assert_array_equal(got.numpy(), pooled(X, kernel, stride, pad, highest))
    got = ops.avg_pool(x, sizes, "custom", strides, pads, torch.tensor(exclude))
    how = mean_without if exclude else mean_with_zeros
    np.testing.assert_allclose(got.numpy(), pooled(X, kernel, stride, pad, how), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "strides"), [([2, 3], [1, 1]), ([3, 3], [2, 1])], ids=["an even kernel", "a stride"]
)
@pytest.mark.parametrize("pad_type", ["same", "same_lower"])
def test_padding_that_the_specification_leaves_open_is_refused(pad_type, kernel, strides):
    with pytest.raises(ValueError, match=pad_type):
        ops.paddings(pad_type, None, kernel, strides)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.paddings("valid_lower", None, [3], [1]),
        lambda: ops.paddings("custom", torch.tensor([1, -1]), [3], [1]),
        lambda: ops.paddings("custom", torch.tensor([1]), [3], [1]),
        lambda: ops.real_div(torch.tensor(3), torch.tensor(2)),
        lambda: ops.resize_bilinear(torch.ones(1, 1, 2, 2), torch.tensor(4), torch.tensor(4), "OFFSET_CORNERS"),
        lambda: ops.resize_bilinear(torch.ones(1, 1, 2, 2), torch.tensor(1), torch.tensor(4), "ALIGN_CORNERS"),
        lambda: ops.upsample_nearest_neighbor(torch.ones(1, 1, 2, 2), torch.tensor(1.5)),
        lambda: ops.layer_norm(torch.ones(2, 3), torch.tensor([0])),
        lambda: ops.max_pool(torch.ones(1, 1, 4, 4), torch.tensor([2]), "valid", torch.tensor([2])),
    ],
)
def test_parameters_that_nothing_defines_are_refused(call):
    with pytest.raises(ValueError, match=r"^(pad|a division|sampling_mode|nearest|axes|\[2\])"):
        call()
