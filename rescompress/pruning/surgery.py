"""Cut channels out of every layer of a group, in a copy of the model."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress import models
from rescompress.graph import clone
from rescompress.layers import keep_channels, width_of
from rescompress.pruning.groups import Side
from rescompress.pruning.plan import Cut

TOLERANCE, TINY = 1e-3, 1e-6
"""Largest difference of an answer, against the largest answer, that rounding in another order may make."""


def cut_channels(model: nn.Module, cuts: Sequence[Cut]) -> nn.Module:
    """A copy of the model that has only the channels the cuts keep.

    Its outputs equal those of the whole model with the other channels' activations set to zero.
    """
    pruned = clone(model)
    # A layer behind a concatenation loses inputs to several groups: all are gathered before any place shifts.
    gone: dict[tuple[str, Side], set[int]] = {}
    for cut in cuts:
        leaving = set(range(cut.group.channels)) - set(cut.kept)
        for member in cut.group.members:
            gone.setdefault((member.layer, member.side), set()).update(p for c in leaving for p in member.places[c])
    for (name, side), places in gone.items():
        layer = pruned.get_submodule(name)
        kept = [place for place in range(width_of(layer, side)) if place not in places]
        keep_channels(layer, kept if side == "inputs" else None, kept if side == "outputs" else None)
    return pruned


def silence_channels(model: nn.Module, cuts: Sequence[Cut]) -> nn.Module:
    """A copy of the whole model in which each channel that the cuts remove is zero wherever a layer makes it."""
    silent = clone(model)
    for cut in cuts:
        leaving = set(range(cut.group.channels)) - set(cut.kept)
        for member in cut.group.members:
            if member.side == "outputs":
                layer = silent.get_submodule(member.layer)
                places = [place for channel in leaving for place in member.places[channel]]
                # A padded shortcut's weight is a buffer.
                for tensor in (getattr(layer, "weight", None), getattr(layer, "bias", None)):
                    if isinstance(tensor, Tensor):
                        tensor.data[places] = 0
    return silent


def proven(model: nn.Module, cuts: Sequence[Cut], input_shape: tuple[int, int, int]) -> tuple[Cut, ...]:
    """The cuts after which the model answers as the whole one does with the same channels silenced.

    A dependency that the graph didn't show (padding in a lambda, a fixed filter per channel) shows here: then the cuts
    are tried one by one, and those that fail are left out.
    """
    images = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))
    if cuts and _answers_alike(model, cuts, images):
        return tuple(cuts)
    alone = tuple(cut for cut in cuts if _answers_alike(model, [cut], images))
    return alone if alone and _answers_alike(model, alone, images) else ()


def _answers_alike(model: nn.Module, cuts: Sequence[Cut], images: Float[Tensor, "2 3 h w"]) -> bool:
    try:
        answer = models.predict(cut_channels(model, cuts), [images])
    except (RuntimeError, ValueError, TypeError):  # a layer was handed other channels than it takes
        return False
    wanted = models.predict(silence_channels(model, cuts), [images])
    return answer.shape == wanted.shape and bool((answer - wanted).abs().max() <= TOLERANCE * wanted.abs().max() + TINY)
