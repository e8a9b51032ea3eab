"""L2 norm of a channel's weights (He et al. 2018, arXiv:1808.06866), averaged over a group's layers."""

from jaxtyping import Float
from torch import Tensor, nn

from rescompress.pruning.evidence import Evidence
from rescompress.pruning.groups import Group
from rescompress.pruning.slices import balanced, weights


def score(model: nn.Module, group: Group, evidence: Evidence) -> Float[Tensor, " c"]:
    """``mean over layers of |w_c|_2``, each layer first divided by its own mean so that none outweighs the others."""
    return balanced(w.norm(dim=1) for w in weights(model, group))
