"""Which remedies a network needs before its ranges are read off."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, fx

from rescompress import graph
from rescompress.quantization.channels import Channels
from rescompress.quantization.streams import LAYERS, own_parameter
from rescompress.sites import WEIGHT_LIMITS

ENOUGH_DB = 20.0
"""A layer whose estimate falls below this in INT8 is ill; the layers of one healthy ResNet-20 lie at 35 to 46 dB."""
HIGH = 0.5
"""A channel that never falls below this share of its value's reach wastes half of the grid's steps."""
STEPS = 255


@dataclass(frozen=True)
class Remedies:
    """What to do, and why; each reason is one sentence.

    Attributes:
        equalize: scale channels before calibrating.
        absorb: move constant parts of channels past their ReLU before calibrating.
        reasons: of each remedy, whether it is taken or not, by its name.
    """

    equalize: bool
    absorb: bool
    reasons: Mapping[str, str]


def choose(traced: fx.GraphModule, channels: Mapping[str, Channels]) -> Remedies:
    """Take the remedies that a network's own figures ask for; a healthy one gets none that could cost it accuracy.

    Args:
        traced: a captured graph without fake-quants, its BatchNorms folded.
        channels: its statistics by stable name, as ``watch_channels`` gives them.
    """
    figures = layer_sqnr_db(traced, channels)
    worst = min(figures, key=lambda name: figures[name], default="")
    ill = [name for name, sqnr_db in figures.items() if sqnr_db < ENOUGH_DB]
    high = _high_channels(traced, channels)
    equalized = (
        f"{len(ill)} of {len(figures)} layers would keep less than {ENOUGH_DB:g} dB in INT8, as their channels reach "
        f"unequally far; {worst} would keep {figures[worst]:.1f} dB."
        if ill
        else f"All channels that share a scale can: every layer keeps at least {ENOUGH_DB:g} dB by estimate."
    )
    absorbed = f"{high} channels never come near zero." if high else "No channel stays far from zero on every image."
    return Remedies(bool(ill), high > 0, {"equalize": equalized, "absorb": absorbed})


@torch.no_grad()
def layer_sqnr_db(traced: fx.GraphModule, channels: Mapping[str, Channels]) -> dict[str, float]:
    """What each layer would keep of its signal in INT8 by minimum and maximum, estimated without running it, in dB.

    Rounding errors are uniform and independent: the input's step ``s_x = (max x - min x) / 255`` gives a row the noise
    ``s_x² / 12 sum w²``, its weights' step ``s_w = max |w| / 127`` gives ``s_w² / 12 sum E[x²]``. The signal of a row
    is its output's variance; rows count by what they put out, as in the SQNR of the whole output.
    """
    found = {}
    for node in traced.graph.nodes:
        weight = own_parameter(traced, node.args[1]) if graph.op_of(node) in LAYERS else None
        source = channels.get(graph.name_of(node.args[0])) if weight is not None else None
        made = channels.get(graph.name_of(node)) if weight is not None else None
        if weight is not None and source is not None and made is not None:
            signal = float((made.deviation.square()).sum())
            noise = float(_noise(weight.double(), source, _groups(node)).sum())
            found[graph.name_of(node)] = 10 * math.log10(signal / noise) if signal and noise else math.inf
    return found


def _noise(w: Float[Tensor, "o i ..."], x: Channels, groups: int) -> Float[Tensor, " o"]:
    kernels = w.reshape(*w.shape[:2], -1)
    s_x = float(x.high.max().clamp(min=0) - x.low.min().clamp(max=0)) / STEPS
    s_w = kernels.abs().amax((1, 2)) / WEIGHT_LIMITS[1]
    square = x.square.view(groups, -1).sum(1).repeat_interleave(len(w) // groups) * kernels.shape[2]
    return s_x**2 / 12 * kernels.square().sum((1, 2)) + s_w.square() / 12 * square


def _groups(node: fx.Node) -> int:
    return int(node.args[6]) if graph.op_of(node) == "conv" and len(node.args) > 6 else 1  # type: ignore[arg-type]


def _high_channels(traced: fx.GraphModule, channels: Mapping[str, Channels]) -> int:
    """Channels behind a ReLU whose smallest value is a large share of all that its value reaches."""
    count = 0
    for node in traced.graph.nodes:
        found = channels.get(graph.name_of(node)) if graph.op_of(node) == "relu" else None
        if found is not None:
            count += int((found.low > HIGH * found.reach.max()).sum())
    return count
