"""Cut channels out of every layer of a group, in a copy of the model."""

from collections.abc import Sequence

from torch import nn

from rescompress.graph import clone
from rescompress.layers import keep_channels
from rescompress.pruning.plan import Cut


def cut_channels(model: nn.Module, cuts: Sequence[Cut]) -> nn.Module:
    """A copy of the model that has only the channels the cuts keep.

    Its outputs equal those of the whole model with the other channels' activations set to zero.
    """
    pruned = clone(model)
    for cut in cuts:
        for member in cut.group.members:
            places = [place for channel in cut.kept for place in member.places[channel]]
            # Channels of a flattened feature map interleave: the layer's own order is the one to keep.
            places.sort()
            layer = pruned.get_submodule(member.layer)
            keep_channels(
                layer, places if member.side == "inputs" else None, places if member.side == "outputs" else None
            )
    return pruned
