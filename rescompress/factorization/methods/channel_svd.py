"""A k x k convolution with few outputs, then a 1 x 1 (Denton et al. 2014, arXiv:1404.0736; Zhang et al. 2015)."""

from collections.abc import Sequence

from torch import nn

from rescompress.factorization.chain import Factor
from rescompress.factorization.split import Split, halves


def split(conv: nn.Conv2d) -> Split:
    """``W ≈ P Q`` with W as a matrix of ``o`` rows and ``i k k`` columns: Q is the first convolution, P the second.

    The optimum for the weights themselves; the optimum for responses (Zhang et al. 2015, arXiv:1411.4229) needs images.
    """
    w = conv.weight.detach().double()
    spectrum, cut = halves(w.flatten(1))

    def build(ranks: Sequence[int], rough: bool) -> tuple[Factor, ...]:
        p, q = cut(ranks[0])
        return Factor.like(conv, q.reshape(-1, *w.shape[1:])), Factor(p[:, :, None, None])

    return Split((spectrum,), build)
