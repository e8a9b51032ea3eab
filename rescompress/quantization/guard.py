"""ISA guard: no pair of u8 x s8 products passes 16 bits, so that an x86 without VNNI computes what others compute.

Only the weight scales of output channels that can overflow grow, by what costs the least weight error: the least factor
at which the rounded weights fit, or a smaller one with single weights moved towards 0. Seven bits for every weight, as
ONNX Runtime's ``reduce_range`` has it, would double all weight errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, fx

from rescompress import graph, progress
from rescompress.cpu import Kernels
from rescompress.fakequant import FakeQuantize
from rescompress.metrics import sqnr_db
from rescompress.quantization.saturation import Packing, operands, overflows, pairs_of, reaches
from rescompress.sites import WEIGHT_LIMITS
from rescompress.spec import Preprocessing

HEADROOM = 0.25
CANDIDATES, HALVINGS = 9, 40
SAFE = 1 + 1e-6
"""Keeps a weight off the tie between two steps, where float32 and float64 may round to different ones."""


@dataclass(frozen=True)
class Guarded:
    """One layer whose weights were kept from overflowing.

    Attributes:
        layer: its stable name.
        channels: output channels that could overflow.
        of: output channels in all.
        widest: largest factor that a channel's scale grew by.
        nudged: weights that were moved by a step or more.
        weight_before_db: SQNR of the rounded weights against what they are rounded from, before.
        weight_after_db: the same, after.
    """

    layer: str
    channels: int
    of: int
    widest: float
    nudged: int
    weight_before_db: float
    weight_after_db: float


def guard(
    traced: fx.GraphModule,
    channels: Mapping[str, Float[Tensor, "_ 2"]],
    cpu: Kernels,
    *,
    headroom: Annotated[float, Field(ge=0)] = HEADROOM,
) -> tuple[Guarded, ...]:
    """Keep every convolution and linear layer with u8 inputs from overflowing, in place; a second time changes nothing.

    Run it before weights are rounded otherwise (AdaRound), and once more when all weights are final: then weights that
    lie on the grid stay there, and single ones move.

    Args:
        traced: a quantized graph with its scales.
        channels: least and largest value of each channel, by the name of a value; a value that is not in it may be
            anything that its quantizer can tell. The image's, ``images``, are taken as exact, see ``pixel_extremes``.
        cpu: only the kernels of ``avx2`` overflow, so nothing is done for others.
        headroom: how far beyond its calibrated extremes a channel may go, as a share of them.

    Returns:
        The layers that were changed.
    """
    found = []
    for node in progress.track(list(traced.graph.nodes) if cpu == "avx2" else [], "guard"):
        quantizers = operands(traced, node)
        if quantizers is not None:
            largest = _largest(node, quantizers[0], channels, headroom)
            found.append(_guard_layer(traced, node, quantizers[1], largest))
    return tuple(layer for layer in found if layer is not None)


def pixel_extremes(preprocessing: Preprocessing) -> Float[Tensor, "3 2"]:
    """What black and white become in each channel of the network's input."""
    mean, std = (torch.tensor(values) for values in (preprocessing.mean, preprocessing.std))
    return torch.stack([-mean / std, (1 - mean) / std], 1)


def sentence(guarded: Sequence[Guarded], before_db: float, after_db: float) -> str:
    """What the guard did, for the report.

    Args:
        guarded: the layers.
        before_db: SQNR of the logits where kernels saturate, before (``saturation.sqnr_db``).
        after_db: the same, after.
    """
    layers = ", ".join(f"{layer.channels} of {layer.of} channels of {layer.layer}" for layer in guarded[:3])
    more = f" and {len(guarded) - 3} more layers" if len(guarded) > 3 else ""
    gained = f"where the CPU has no VNNI, the SQNR of the logits goes from {before_db:.1f} to {after_db:.1f} dB"
    return f"Weight scales were widened in {layers}{more}, so that products can't pass 16 bits: {gained}."


def _largest(
    node: fx.Node, x: FakeQuantize, channels: Mapping[str, Float[Tensor, "_ 2"]], headroom: float
) -> Int[Tensor, " c"]:
    """The largest integer that each input channel of a layer reaches; padding holds the zero-point."""
    source = graph.inputs_of(node)[0]
    name = graph.name_of(source.all_input_nodes[0])
    count = source.meta["val"].shape[1] if "val" in source.meta else source.all_input_nodes[0].meta["val"].shape[1]
    known = channels.get(name, channels.get(x.site.quantizer))
    zero_point = int(x.zero_point[0])
    if known is None or count % len(known):
        return torch.full((count,), 255)
    high = known[:, 1].double() * (1 if name == graph.INPUT else 1 + headroom)
    steps = (high.clamp(min=0) / x.scale.double()).ceil().long() + zero_point
    return steps.clamp(zero_point, 255).repeat_interleave(count // len(known))


def _guard_layer(
    traced: fx.GraphModule, node: fx.Node, quantizer: FakeQuantize, largest: Int[Tensor, " c"]
) -> Guarded | None:
    """Change one layer's scales and weights where it can overflow."""
    parameter = graph.tensor_of(traced, node.args[1].args[0])  # type: ignore[union-attr, arg-type]
    weight = parameter.detach()
    groups = len(largest) // weight.shape[1]
    # within one packing, no weight has two neighbours; both are the same for an even number of channels
    packings: tuple[Packing, ...] = ("rows", "blocks") if weight.shape[1] % 2 else ("rows",)
    found = [pairs_of(weight, groups, packing) for packing in packings]
    reach = reaches(largest, weight.shape, groups)
    w, scale = weight.flatten(1).double(), quantizer.scale.double().expand(len(weight))
    before = _steps(w, scale)
    bad = _any_overflows(before, reach, found)
    if not bad.any():
        return None
    bad = bad if quantizer.site.channels else torch.ones_like(bad)
    factors, steps = _best(w[bad], scale[bad], reach[bad], found, shared=quantizer.site.channels is None)
    after, widened = before.clone(), scale.clone()
    after[bad], widened[bad] = steps, scale[bad] * factors
    moved = after != _steps(w, widened)
    quantizer.scale.copy_(widened if quantizer.site.channels else widened[:1])
    parameter.data.copy_(torch.where(moved, after * widened[:, None], w).view_as(weight))
    sqnr = [
        sqnr_db(w.float().numpy(), (q * s[:, None]).float().numpy()) for q, s in ((before, scale), (after, widened))
    ]
    return Guarded(
        graph.name_of(node), int(bad.sum()), len(weight), float(factors.max()), int(moved.sum()), sqnr[0], sqnr[1]
    )


def _best(
    w: Float[Tensor, "m k"],
    scale: Float[Tensor, " m"],
    reach: Int[Tensor, "m k"],
    found: Sequence[Int[Tensor, "_ 2"]],
    shared: bool,
) -> tuple[Float[Tensor, " m"], Int[Tensor, "m k"]]:
    """Each channel's factor, and its weights in steps, that fit with the least squared error."""
    least = _least_factor(w, scale, reach, found)
    if shared:
        least = least.amax().expand_as(least)
    best = torch.ones_like(scale)
    error = torch.full_like(scale, torch.inf)
    chosen = torch.zeros_like(w, dtype=torch.int64)
    for share in torch.linspace(1, 0, CANDIDATES, dtype=torch.float64):
        factor = 1 + (least - 1) * share
        steps = _nudged(w / (scale * factor)[:, None], reach, found)
        errors = ((steps * (scale * factor)[:, None] - w) ** 2).sum(1)
        better = (errors.sum() < error.sum()).expand_as(errors) if shared else errors < error
        best, error = torch.where(better, factor, best), torch.where(better, errors, error)
        chosen = torch.where(better[:, None], steps, chosen)
    return best, chosen


def _least_factor(
    w: Float[Tensor, "m k"],
    scale: Float[Tensor, " m"],
    reach: Int[Tensor, "m k"],
    found: Sequence[Int[Tensor, "_ 2"]],
) -> Float[Tensor, " m"]:
    """The least factor of each channel's scale at which its rounded weights fit.

    A wider scale never makes a rounded weight larger, so halving the interval finds it, and only pairs that overflow
    now have to be looked at. Weights of half the limit fit.
    """
    least = torch.ones_like(scale)
    for neighbours in found:
        row, place = overflows(_steps(w, scale), reach, neighbours).nonzero().T
        at = (row[:, None], neighbours[place])
        pair, limit, step = w[at], reach[at], scale[row]
        low = torch.ones_like(step)
        high = 2 * (pair.abs().amax(1) / (step * WEIGHT_LIMITS[1])).clamp(min=1)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            bad = overflows(_steps(pair, step * middle), limit, torch.tensor([[0, 1]]))[:, 0]
            low, high = torch.where(bad, middle, low), torch.where(bad, high, middle)
        least = least.scatter_reduce(0, row, high * SAFE, "amax")
    return least


def _nudged(
    exact: Float[Tensor, "m k"], reach: Int[Tensor, "m k"], found: Sequence[Int[Tensor, "_ 2"]]
) -> Int[Tensor, "m k"]:
    """Weights in steps, rounded, then moved towards 0 one step at a time where their pair overflows.

    Of a pair, the weight moves that adds less squared error for what its product shrinks by.
    """
    steps = exact.round().clamp(*WEIGHT_LIMITS).long()
    for neighbours in found:
        row, place = overflows(steps, reach, neighbours).nonzero().T
        at = (row[:, None], neighbours[place])
        pair, limit, aim = steps[at], reach[at], exact[at]
        while bool((bad := overflows(pair, limit, torch.tensor([[0, 1]]))).any()):
            sign = pair.sign()
            cost = ((pair - sign - aim) ** 2 - (pair - aim) ** 2) / limit.clamp(min=1)
            moving = cost.masked_fill(pair == 0, torch.inf).argmin(1, keepdim=True)
            pair = pair - torch.zeros_like(pair).scatter(1, moving, bad.long()) * sign
        steps[at] = pair
    return steps


def _steps(w: Float[Tensor, "m k"], scale: Float[Tensor, " m"]) -> Int[Tensor, "m k"]:
    return (w / scale[:, None]).round().clamp(*WEIGHT_LIMITS).long()


def _any_overflows(
    steps: Int[Tensor, "m k"], reach: Int[Tensor, "m k"], found: Sequence[Int[Tensor, "_ 2"]]
) -> Bool[Tensor, " m"]:
    bad = [overflows(steps, reach, neighbours).any(1) for neighbours in found]
    return torch.stack(bad).any(0)
