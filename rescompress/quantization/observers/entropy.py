"""Least KL divergence between the values and their rounding, as TensorRT calibrates (Migacz, GTC 2017, S7310)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rescompress.quantization.grid import UINT8, Grid, Range
from rescompress.quantization.histogram import BINS, Histogram

_THRESHOLDS = 128
_EPSILON = 1e-4

WEIGHED = False


def ranges_of(histogram: Histogram, grid: Grid = UINT8) -> tuple[Range]:
    """Clip at the threshold ``|x| = T`` that loses the least information.

    P is the histogram within the range, with the clipped counts in its edge bins. Q is what is within, merged into the
    grid's levels and spread evenly over each level's bins that hold something. The threshold with the least
    ``KL(P || Q) = sum P log(P / Q)`` wins; among equals, the widest. No level is narrower than a bin.
    Zeros cost nothing, since 0 is on the grid, and would drown all else behind a ReLU: their bin counts no more than
    its neighbour, as in NVIDIA's pytorch-quantization. A bin of P that Q leaves empty counts as 1e-4 in Q, as in
    ONNX Runtime.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    counts = _without_zeros(histogram)
    reach = max(-low, high)
    finest = histogram.width * (grid.q_max if grid.symmetric else grid.q_max - grid.q_min)
    if not counts.any() or finest >= reach:
        return ((low, high),)
    # On bin edges, and the extreme itself, which cuts its bin.
    inner = torch.linspace(reach, finest, _THRESHOLDS, dtype=torch.float64)[1:]
    t = torch.cat([torch.tensor([reach], dtype=torch.float64), (inner / histogram.width).ceil() * histogram.width])
    best = float(t[int(_divergence(counts, histogram, grid, t.clamp(max=reach)).argmin())])
    return ((max(low, -best), min(high, best)),)


def _without_zeros(histogram: Histogram) -> Float[Tensor, " bins"]:
    """The counts, that of the bin which holds 0 cut down to its larger neighbour's."""
    counts, zero = histogram.counts.double(), -histogram.first
    if 0 <= zero < BINS:
        around = torch.cat([counts[max(zero - 1, 0) : zero], counts[zero + 1 : zero + 2]])
        counts[zero] = torch.minimum(counts[zero], around.max())
    return counts


def _divergence(
    counts: Float[Tensor, " bins"], histogram: Histogram, grid: Grid, t: Float[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """KL divergence of each threshold; infinite where nothing would be left."""
    edges = histogram.edges
    middle = (edges[:-1] + edges[1:]) / 2
    low = torch.maximum(-t, t.new_tensor(min(histogram.low, 0.0)))[:, None]
    high = torch.minimum(t, t.new_tensor(max(histogram.high, 0.0)))[:, None]
    # The extremes lie within the outermost bins, so a bin is inside if its middle is, or it holds an extreme.
    inside = (edges[1:] > low) & (edges[:-1] < high)
    within = counts * inside
    p = _with_clipped(counts, inside)
    q = _merged(within, middle, grid, low, high)
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    q = torch.where((p > 0) & (q == 0), _EPSILON, q)
    divergence = torch.where(p > 0, p * (p / q).log(), 0.0).sum(1)
    return torch.where(within.sum(1) > 0, divergence, torch.inf)


def _with_clipped(counts: Float[Tensor, " bins"], inside: Bool[Tensor, "k bins"]) -> Float[Tensor, "k bins"]:
    """What is inside, with what lies below added to the first bin inside and what lies above to the last."""
    p = counts * inside
    first = inside.int().argmax(1, keepdim=True)
    last = inside.shape[1] - 1 - inside.flip(1).int().argmax(1, keepdim=True)
    place = torch.arange(inside.shape[1])
    p.scatter_add_(1, first, (counts * (place < first)).sum(1, keepdim=True))
    return p.scatter_add_(1, last, (counts * (place > last)).sum(1, keepdim=True))


def _merged(
    within: Float[Tensor, "k bins"],
    middle: Float[Tensor, " bins"],
    grid: Grid,
    low: Float[Tensor, "k 1"],
    high: Float[Tensor, "k 1"],
) -> Float[Tensor, "k bins"]:
    """Each level's mass, spread evenly over those of its bins that hold something."""
    scale, zero = grid.affine(low, high)
    level = ((middle / scale).round() + zero).clamp(grid.q_min, grid.q_max).long() - grid.q_min
    full = (within > 0).double()
    mass = torch.zeros(len(within), grid.levels, dtype=torch.float64).scatter_add(1, level, within)
    bins = torch.zeros_like(mass).scatter_add(1, level, full)
    return full * (mass / bins.clamp(min=1)).gather(1, level)
