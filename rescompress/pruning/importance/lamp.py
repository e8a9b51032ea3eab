"""Layer-adaptive magnitude (LAMP; Lee et al. 2021, arXiv:2010.07611), of channels instead of single weights."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.pruning.evidence import Evidence
from rescompress.pruning.groups import Group
from rescompress.pruning.slices import balanced, weights


def score(model: nn.Module, group: Group, evidence: Evidence) -> Float[Tensor, " c"]:
    """``e_c / sum of e_d over all d with e_d >= e_c``, where ``e_c`` is the mean over layers of ``|w_c|_2^2``.

    Each layer's energies are first divided by their mean. Within a group the order is that of ``e``; across groups a
    channel counts against those that would be left, so the best of each group is worth 1 and none is emptied.
    """
    e = balanced(w.square().sum(1) for w in weights(model, group))
    left = ((e[None, :] >= e[:, None]) * e[None, :]).sum(1)
    return e / left.clamp_min(torch.finfo(e.dtype).tiny)
