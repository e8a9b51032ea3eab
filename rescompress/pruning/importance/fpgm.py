"""Distance from the geometric median of a layer's filters (FPGM; He et al. 2019, arXiv:1811.00250)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.pruning.evidence import Evidence
from rescompress.pruning.groups import Group
from rescompress.pruning.slices import balanced, weights


def score(model: nn.Module, group: Group, evidence: Evidence) -> Float[Tensor, " c"]:
    """``mean over layers of sum_d |w_c - w_d|_2``, each layer first divided by its own mean.

    A filter near the median can be replaced by the others: it is redundant, however large it is. The distances are
    taken in double precision, for near filters cancel.
    """
    return balanced(torch.cdist(w.double(), w.double()).sum(1).to(w.dtype) for w in weights(model, group))
