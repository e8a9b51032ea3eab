"""L1 norm of a channel's weights (Li et al. 2016, arXiv:1608.08710), averaged over a group's layers."""

from jaxtyping import Float
from torch import Tensor, nn

from rescompress.pruning.evidence import Evidence
from rescompress.pruning.groups import Group
from rescompress.pruning.slices import balanced, weights


def score(model: nn.Module, group: Group, evidence: Evidence) -> Float[Tensor, " c"]:
    """``mean over layers of |w_c|_1``, each layer first divided by its own mean so that none outweighs the others."""
    return balanced(w.abs().sum(1) for w in weights(model, group))
