"""A k x k convolution with few outputs, then a 1 x 1 (Denton et al. 2014, arXiv:1404.0736; Zhang et al. 2015)."""

from torch import nn

from rescompress.factorization.chain import Factor
from rescompress.factorization.ranks import Ranks, halves


def split(conv: nn.Conv2d, ranks: Ranks) -> tuple[Factor, ...]:
    """``W ≈ P Q`` with W as a matrix of ``o`` rows and ``i k k`` columns: Q is the first convolution, P the second.

    The optimum for the weights themselves; the optimum for responses (Zhang et al. 2015, arXiv:1411.4229) needs images.
    """
    w = conv.weight.detach().double()
    p, q = halves(w.flatten(1), ranks)
    return Factor.like(conv, q.reshape(-1, *w.shape[1:])), Factor(p[:, :, None, None])
