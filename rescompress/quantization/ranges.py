"""From ranges to scales and zero-points."""

from typing import cast

import torch
from torch import fx

from rescompress.fakequant import WEIGHT_LIMITS, FakeQuantize, quantizer_behind
from rescompress.graph import tensor_of

_LARGEST_BIAS = 2.0**30


def set_activation(quantizer: FakeQuantize, low: float, high: float) -> None:
    """Let a quantizer cover ``[low, high]``, in place; real 0 is always on the grid.

    Unsigned: ``s = (high - low) / 255``, ``z = round(-low / s)``. Signed: ``s = max(|low|, |high|) / 127``, ``z = 0``.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    q_min, q_max = quantizer.site.limits
    signed = quantizer.site.dtype == "int8"
    scale = max(-low, high) / q_max if signed else (high - low) / (q_max - q_min)
    scale = scale if scale > torch.finfo(torch.float32).tiny else 1.0
    quantizer.scale.fill_(scale)
    quantizer.zero_point.fill_(0 if signed else max(q_min, min(q_max, round(-low / scale))))


def set_weight(traced: fx.GraphModule, node: fx.Node) -> None:
    """Let a weight's quantizer reach each channel's largest magnitude: ``s_c = max |w_c| / 127``, in place.

    A channel whose bias would overflow the INT32 accumulator (a nearly dead channel with a large bias) gets the larger
    scale that holds it; its weights are too small to matter.
    """
    quantizer = quantizer_behind(traced, node.args[1])
    if quantizer is None:
        return
    weight_node = cast(fx.Node, cast(fx.Node, node.args[1]).args[0])
    rows = tensor_of(traced, weight_node).detach().flatten(1)
    scale = rows.abs().amax(1) / WEIGHT_LIMITS[1]
    source = quantizer_behind(traced, node.args[0])
    if source is not None and len(node.args) > 2 and isinstance(node.args[2], fx.Node):
        bias = tensor_of(traced, node.args[2]).detach()
        scale = torch.maximum(scale, bias.abs() / (source.scale * _LARGEST_BIAS))
    scale = torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
    quantizer.scale.copy_(scale if quantizer.site.channels else scale.amax())
