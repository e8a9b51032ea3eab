"""Least squared error: clip where the finer grid saves more than it costs (Banner et al. 2018, arXiv:1810.05723)."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from rescompress.quantization.grid import UINT8, Grid, Range
from rescompress.quantization.histogram import Histogram

WEIGHED = True
_NEAREST = 2.0**-7
"""The tightest clip that is tried, as a share of the extreme; beyond, a bin is wider than a step of the grid."""


def ranges_of(
    histogram: Histogram, grid: Grid = UINT8, *, places: Annotated[int, Field(ge=5, le=100)] = 25
) -> tuple[Range]:
    """The range whose grid rounds and clips the histogram's values with the least expected squared error.

    A bin's values are taken as spread evenly over it, so the error of a grid is an integral in closed form. Both ends
    are searched at once where the grid is affine: first on a coarse lattice of clips, then twice around the best.

    Args:
        histogram: of the value.
        grid: whose rounding is counted.
        places: clips that are tried of each end, in each round.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if low == high:
        return ((low, high),)
    bins = _Bins(histogram)
    if grid.symmetric:
        low, high = -max(-low, high), max(-low, high)
    below, above = (torch.logspace(0, 1, places, 1 / _NEAREST, dtype=torch.float64) * _NEAREST for _ in range(2))
    best = (1.0, 1.0)
    for _ in range(3):
        best = _best(bins, grid, (low, high), below, above)
        below, above = (_around(tried, share) for tried, share in zip((below, above), best, strict=True))
    return ((max(low * best[0], min(histogram.low, 0.0)), min(high * best[1], max(histogram.high, 0.0))),)


def expected_error(
    histogram: Histogram, grid: Grid, low: Float[Tensor, " k"], high: Float[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """Mean squared error of rounding the histogram's values to each grid that covers ``[low, high]``."""
    return _Bins(histogram).error(grid, low, high)


class _Bins:
    """The bins that hold something, cut at the extremes."""

    def __init__(self, histogram: Histogram) -> None:
        full = histogram.counts > 0
        counts = histogram.counts[full].double()
        self._share = counts / counts.sum()
        self._begin = histogram.edges[:-1][full].clamp(min=histogram.low)
        # A single value at a bin's edge still needs some width to be integrated over.
        self._end = torch.maximum(
            histogram.edges[1:][full].clamp(max=histogram.high), self._begin + histogram.width / 64
        )

    def error(self, grid: Grid, low: Float[Tensor, " k"], high: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        scale, zero = (number[:, None] for number in grid.affine(low, high))
        area = _antiderivative(self._end, scale, zero, grid) - _antiderivative(self._begin, scale, zero, grid)
        return (area / (self._end - self._begin)) @ self._share


def _antiderivative(
    x: Float[Tensor, " n"], scale: Float[Tensor, "k 1"], zero: Float[Tensor, "k 1"], grid: Grid
) -> Float[Tensor, "k n"]:
    """``∫ (x - q(x))² dx``: each step of the grid adds ``s³ / 12``; beyond its ends the error is the clipping's."""
    t = x / scale
    k = torch.minimum(torch.maximum(t.round(), grid.q_min - zero), grid.q_max - zero)
    return scale**3 * (k / 12 + (t - k) ** 3 / 3)


def _best(
    bins: _Bins, grid: Grid, ends: Range, below: Float[Tensor, " n"], above: Float[Tensor, " n"]
) -> tuple[float, float]:
    """The pair of shares of the extremes with the least error; one share for both where one of them is all there is."""
    one = grid.symmetric or 0 in ends
    pairs = torch.stack([below, above], 1) if one else torch.cartesian_prod(below, above)
    error = bins.error(grid, ends[0] * pairs[:, 0], ends[1] * pairs[:, 1])
    lower, upper = pairs[int(error.argmin())].tolist()
    return lower, upper


def _around(tried: Float[Tensor, " n"], share: float) -> Float[Tensor, " n"]:
    """As many shares again, between the neighbours of the best."""
    place = int((tried - share).abs().argmin())
    first, last = tried[max(place - 1, 0)], tried[min(place + 1, len(tried) - 1)]
    return torch.linspace(float(first), float(last), len(tried) | 1, dtype=torch.float64)
