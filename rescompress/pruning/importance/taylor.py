"""First-order Taylor expansion of the loss (Molchanov et al. 2019, arXiv:1906.10771)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.pruning.evidence import Evidence
from rescompress.pruning.groups import Group
from rescompress.pruning.slices import slices

GRADIENTS = True


def score(model: nn.Module, group: Group, evidence: Evidence) -> Float[Tensor, " c"]:
    """``mean over batches of |sum g w|`` over all weights that read the channel.

    That sum is the slope of the loss along a factor (the paper's gate) on the channel where it is read, also behind a
    BatchNorm and an activation; sums over making and reading weights together count the same slope several times.
    Makers stand in where no weight reads the channel. It is a loss, and so comparable across groups as it is.
    """
    every = slices(model, group)
    gates = [each for each in every if each.side == "inputs"] or every
    slopes = []
    for each in gates:
        places = evidence.gates[each.parameter, each.side][:, each.order]
        slopes.append(places.reshape(len(places), group.channels, -1).sum(2))
    return torch.stack(slopes).sum(0).abs().mean(0)
