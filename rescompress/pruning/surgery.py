"""Cut channels out of every layer of a group, in a copy of the model."""

from collections.abc import Sequence

from torch import nn

from rescompress.graph import clone
from rescompress.layers import keep_channels, width_of
from rescompress.pruning.groups import Side
from rescompress.pruning.plan import Cut


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
