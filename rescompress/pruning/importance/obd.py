"""Optimal brain damage: second order, with a diagonal Hessian (LeCun et al. 1990, "Optimal Brain Damage")."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.pruning.evidence import Evidence
from rescompress.pruning.groups import Group
from rescompress.pruning.slices import slices

GRADIENTS = True


def score(model: nn.Module, group: Group, evidence: Evidence) -> Float[Tensor, " c"]:
    """``sum of h w^2 / 2`` over all parameters that leave with the channel, where ``h = E[g^2]``.

    Near a minimum the Hessian is the Fisher information, of which E[g^2] is the diagonal, up to the batch size that is
    the same for all (as in arXiv:1905.05934). It is a loss, and so comparable across groups as it is.
    """
    terms = []
    for each in slices(model, group):
        w, h = model.get_parameter(each.parameter).detach(), evidence.squares[each.parameter]
        terms.append(each.sums(h.to(w.device) * w.square()) / 2)
    return torch.stack(terms).sum(0)
