"""Percentiles: clip the outermost values for a finer grid for all others (Wu et al. 2020, arXiv:2004.09602)."""

from typing import Annotated

import torch
from pydantic import Field

from rescompress.quantization.grid import UINT8, Grid, Range
from rescompress.quantization.histogram import Histogram

WEIGHED = False


def ranges_of(
    histogram: Histogram, grid: Grid = UINT8, *, percent: Annotated[float, Field(gt=50, le=100)] = 99.99
) -> tuple[Range]:
    """The values below and above which ``percent`` of all values lie, linear within a bin, and 0.

    Args:
        histogram: of the value.
        grid: plays no part.
        percent: share of the values that lie below the upper end, and above the lower end.
    """
    cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), histogram.counts.double().cumsum(0)])
    high = _crossing(cumulative, histogram.edges, histogram.total * percent / 100)
    low = _crossing(cumulative, histogram.edges, histogram.total * (1 - percent / 100))
    return ((min(_within(low, histogram), 0.0), max(_within(high, histogram), 0.0)),)


def _within(value: float, histogram: Histogram) -> float:
    """A place in an outermost bin may lie beyond the extreme itself."""
    return min(max(value, histogram.low), histogram.high)


def _crossing(cumulative: torch.Tensor, edges: torch.Tensor, count: float) -> float:
    """Where so many values have been passed."""
    bin_ = int(torch.searchsorted(cumulative, count).clamp(1, len(cumulative) - 1))
    before, after = float(cumulative[bin_ - 1]), float(cumulative[bin_])
    share = (count - before) / (after - before) if after > before else 1.0
    return float(edges[bin_ - 1]) + share * float(edges[bin_] - edges[bin_ - 1])
