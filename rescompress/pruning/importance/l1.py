"""L1 norm of the filters that make a channel (Li et al. 2016, arXiv:1608.08710), averaged over a group's layers."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.pruning.groups import Group


def score(model: nn.Module, group: Group) -> Float[Tensor, " c"]:
    """``mean over layers of |w_c|_1``, each layer first divided by its own mean so that none outweighs the others."""
    norms = [rows.abs().sum(1) for rows in group.filters(model)]
    return torch.stack([norm / norm.mean().clamp_min(torch.finfo(norm.dtype).tiny) for norm in norms]).mean(0)
