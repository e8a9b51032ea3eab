"""What a network's weights foretell: dead channels, odd BatchNorms, ranges that INT8 can't share, broken numbers."""

import math
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rescompress.inspection.network import Network, Op
from rescompress.sites import WEIGHT_LIMITS
from rescompress.views import Finding

DEAD = 1e-3
"""A filter this small beside its layer's median is below half a step of an INT8 scale that both would share."""
SIGMAS = 4.0
"""Deviations beyond which 3 of 100,000 normal values lie; a BatchNorm's output has mean beta and deviation gamma."""
VANISHED = 1e-6
"""A variance this far below the median comes of a channel that was all but constant while training."""
LOST_BITS = 3
"""Ranges that differ by this power of two leave 5 of 8 bits to most of the values; 4 bits cost accuracy everywhere."""
APART = 2.0**LOST_BITS


def weight_sqnr_db(network: Network, op: Op) -> float | None:
    """``10 log10(sum w² / sum (w - Q(w))²)`` of a layer's folded weights in INT8 with a scale per channel, in dB.

    Infinite where INT8 holds the weights exactly; None where they are zero, or not numbers.
    """
    w = network.filters(op)
    s = w.abs().amax(1, keepdim=True) / WEIGHT_LIMITS[1]
    s = torch.where(s > 0, s, torch.ones_like(s))
    signal, noise = float(w.square().sum()), float((w - (w / s).round() * s).square().sum())
    if not 0 < signal < math.inf:
        return None
    exact = noise <= signal * torch.finfo(torch.float32).eps ** 2
    return math.inf if exact else 10 * math.log10(signal / noise)


def dead_channels(network: Network) -> Iterator[Finding]:
    """Filters that are all but zero, and channels that a BatchNorm keeps below the ReLU behind it."""
    for op in filter(_learned, network.layers):
        zero = _dead(network, op)
        silent = _silent(network, op) & ~zero
        below = f"never positive (beta + {SIGMAS:g} |gamma| < 0)"
        parts = [(int(zero.sum()), "all but zero"), (int(silent.sum()), below)]
        told = " and ".join(f"{count} {how}" for count, how in parts if count)
        if told:
            yield Finding(
                "dead channels",
                "warning",
                (op.name,),
                f"Of the {len(zero)} channels of {op.name}, {told}.",
                "Train the network first: this layer puts nothing out yet."
                if bool(zero.all())
                else "Prune them: they cost time, and nothing behind them will notice.",
            )


def vanished_variance(network: Network) -> Iterator[Finding]:
    """BatchNorms that blow a channel up, because it hardly varied while training."""
    for op in network.ops:
        if op.norm is None:
            continue
        var = op.norm.var
        near = (var < VANISHED * var.median()) | (var < op.norm.eps)
        source = network.named[op.inputs[0]]
        if source.cost is not None and network.norm_behind(source) is op.norm:
            near &= ~_dead(network, source)
        count = int(near.sum())
        if count:
            yield Finding(
                "variance near zero",
                "warning",
                (op.name,),
                f"{count} of {len(var)} running variances of {op.name} are near zero; the smallest is "
                f"{float(var[near].min()):.1e}, the median {float(var.median()):.1e}, ε {op.norm.eps:.0e}.",
                "Prune these channels, or estimate the statistics again on training images before folding.",
            )


def uneven_ranges(network: Network) -> Iterator[Finding]:
    """Layers whose channels differ so much that INT8 with one scale for all would lose the small ones.

    Nagel et al. 2019 (arXiv:1906.04721), figure 2.
    """
    for op in filter(_learned, network.layers):
        ranges = network.filters(op).abs().amax(1)
        middle, largest = float(ranges.median()), float(ranges.max())
        if middle > 0 and largest > APART * middle:
            yield Finding(
                "uneven weight ranges",
                "note",
                (op.name,),
                f"With its BatchNorm folded in, the widest channel of {op.name} reaches {largest / middle:.0f} times "
                "as far as the median one.",
                "Keep INT8 scales per channel; a runtime with one scale per tensor would need equalization first.",
            )


def broken_numbers(tensors: Mapping[str, Tensor]) -> Iterator[Finding]:
    """Tensors by name that hold NaN or infinities."""
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            yield Finding(
                "NaN or infinity",
                "error",
                (name.rpartition(".")[0] or name,),
                f"{bad} of {tensor.numel()} values of {name} are NaN or infinite.",
                "Go back to a checkpoint from before.",
            )


def _learned(op: Op) -> bool:
    return op.learned


def _dead(network: Network, op: Op) -> Bool[Tensor, " o"]:
    norms: Float[Tensor, " o"] = network.filters(op).norm(dim=1)
    return norms <= DEAD * norms.median()


def _silent(network: Network, op: Op) -> Bool[Tensor, " o"]:
    """Channels that the ReLU behind a convolution's BatchNorm never lets through."""
    norm = network.norm_behind(op)
    behind = network.only_reader(op, "batch_norm")
    if norm is None or norm.bias is None or behind is None or network.only_reader(behind, "relu") is None:
        return torch.zeros(len(network.filters(op)), dtype=torch.bool)
    deviation = torch.ones_like(norm.bias) if norm.weight is None else norm.weight.abs()
    return norm.bias + SIGMAS * deviation < 0
