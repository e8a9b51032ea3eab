"""From ranges to scales and zero-points."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, fx

from rescompress.fakequant import FakeQuantize, quantizer_behind, quantizer_of, sites_of
from rescompress.graph import op_of, tensor_of
from rescompress.quantization.adaptive import choose
from rescompress.quantization.grid import Grid, Range
from rescompress.quantization.histogram import Histogram

Observer = Callable[[Histogram, Grid], Sequence[Range]]
"""A file of ``observers`` with its knobs filled in."""
WeightObserver = Literal["minmax", "mse"]
"""What sets a weight's scale: its largest magnitude, or the least squared error."""
_LARGEST_BIAS = 2.0**30
_SHARES = 40
"""Clips of a weight that are tried, evenly spaced."""
_TIGHTEST = 0.2


def set_ranges(
    traced: fx.GraphModule,
    histograms: Mapping[str, Histogram],
    observer: Observer,
    batches: Iterable[Float[Tensor, "_ 3 h w"]] = (),
    weights: WeightObserver = "minmax",
    fixed: Mapping[str, Range] = MappingProxyType({}),
) -> None:
    """Set every scale and zero-point of a graph with fake-quants, in place.

    Args:
        traced: a captured graph with fake-quants behind all its sites.
        histograms: of each activation, by the name of its quantizer.
        observer: gives one range, or several; then the outputs of the layers behind decide.
        batches: normalized images on which they decide; not read where each value has one range only.
        weights: what sets the weights' scales.
        fixed: ranges that nobody may choose, by the name of their quantizer.
    """
    quantizers = {s.quantizer: quantizer_of(traced, s) for s in sites_of(traced) if not (s.is_weight or s.dynamic)}
    candidates = {
        name: (fixed[name],) if name in fixed else observer(histograms[name], Grid.of(made.site))
        for name, made in quantizers.items()
    }
    set_activations(quantizers, {name: ranges[0] for name, ranges in candidates.items()})
    set_weights(traced, weights)
    if any(len(ranges) > 1 for ranges in candidates.values()):
        set_activations(quantizers, choose(traced, candidates, batches))
        set_weights(traced, weights)


def set_activations(quantizers: Mapping[str, FakeQuantize], ranges: Mapping[str, Range]) -> None:
    """Let each quantizer cover the range of the same name, in place."""
    for name, quantizer in quantizers.items():
        set_activation(quantizer, *ranges[name])


def set_activation(quantizer: FakeQuantize, low: float, high: float) -> None:
    """Let a quantizer cover ``[low, high]``, in place; real 0 is always on the grid (``Grid.affine``)."""
    ends = (torch.tensor(end, dtype=torch.float64) for end in (low, high))
    scale, zero = Grid.of(quantizer.site).affine(*ends)
    quantizer.scale.fill_(float(scale))
    quantizer.zero_point.fill_(int(zero))


def set_weights(traced: fx.GraphModule, observer: WeightObserver = "minmax") -> None:
    """Set the scales of all weights that have a quantizer, in place."""
    for node in traced.graph.nodes:
        if op_of(node) in ("conv", "linear"):
            set_weight(traced, node, observer)


def set_weight(traced: fx.GraphModule, node: fx.Node, observer: WeightObserver = "minmax") -> None:
    """Set the scale of a layer's weight, in place: ``s_c = max |w_c| / 127`` (8 bits), or that of least squared error.

    A channel whose bias would overflow the INT32 accumulator (a nearly dead channel with a large bias) gets the larger
    scale that holds it; its weights are too small to matter.
    """
    quantizer = quantizer_behind(traced, node.args[1])
    if quantizer is None:
        return
    weight_node = cast(fx.Node, cast(fx.Node, node.args[1]).args[0])
    rows = tensor_of(traced, weight_node).detach().flatten(1)
    rows = rows if quantizer.site.channels else rows.reshape(1, -1)
    q_min, q_max = quantizer.site.limits
    scale = _WEIGHT_SCALES[observer](rows, (q_max - q_min) // 2)
    source = quantizer_behind(traced, node.args[0])
    if source is not None and len(node.args) > 2 and isinstance(node.args[2], fx.Node):
        bias = tensor_of(traced, node.args[2]).detach()
        floor = bias.abs() / (source.scale * _LARGEST_BIAS)
        scale = torch.maximum(scale, floor if quantizer.site.channels else floor.amax())
    scale = torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
    quantizer.scale.copy_(scale)


def minmax_scale(rows: Float[Tensor, "c k"], reach: int) -> Float[Tensor, " c"]:
    """The scale with which ``reach`` steps are each row's largest magnitude: ``s_c = max |w_c| / reach``."""
    return rows.abs().amax(1) / reach


def mse_scale(rows: Float[Tensor, "c k"], reach: int) -> Float[Tensor, " c"]:
    """The scale ``p max |w_c| / reach``, p from 0.2 to 1, with the least ``sum (w_c - q(w_c))²`` in each row."""
    widest = minmax_scale(rows, reach)
    best, least = widest, torch.full_like(widest, torch.inf)
    for share in torch.linspace(1.0, _TIGHTEST, _SHARES + 1).tolist():
        scale = widest * share
        step = torch.where(scale > 0, scale, 1.0)[:, None]
        error = (rows - (rows / step).round_().clamp_(-reach, reach).mul_(step)).square_().sum(1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


_WEIGHT_SCALES = {"minmax": minmax_scale, "mse": mse_scale}
