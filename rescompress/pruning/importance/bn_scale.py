"""The scale that BatchNorm gives a channel (network slimming; Liu et al. 2017, arXiv:1708.06519)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.errors import InputRefused
from rescompress.pruning.evidence import Evidence
from rescompress.pruning.groups import Group
from rescompress.pruning.slices import slices


def score(model: nn.Module, group: Group, evidence: Evidence) -> Float[Tensor, " c"]:
    """``mean over the group's BatchNorms of |gamma_c|``; of the channels that leave at once, their mean.

    Raises:
        InputRefused: the group has no BatchNorm with a scale. Norms of weights would be no stand-in, for the two
            can't be compared across groups.
    """
    norms = [
        each.rows(model.get_parameter(each.parameter).detach()).abs().mean(1)
        for each in slices(model, group)
        if each.name == "weight" and isinstance(model.get_submodule(each.layer), nn.BatchNorm2d)
    ]
    if not norms:
        raise InputRefused(
            f"bn_scale can't judge the channels that {group.name} makes, for no BatchNorm scales them.",
            f"Choose another importance, or keep these channels: list {group.name} under keep.",
        )
    return torch.stack(norms).mean(0)
