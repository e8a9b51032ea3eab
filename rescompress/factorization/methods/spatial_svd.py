"""A k x 1 convolution, then a 1 x k (scheme 2 of Jaderberg et al. 2014, arXiv:1405.3866)."""

from collections.abc import Sequence

from torch import nn

from rescompress.factorization.chain import Factor
from rescompress.factorization.split import Split, halves


def split(conv: nn.Conv2d) -> Split:
    """``W[o, i, y, x] ≈ sum_r h[o, r, x] v[r, i, y]``.

    In closed form (Tai et al. 2016, arXiv:1511.06067): the SVD of the matrix of ``i k`` rows and ``o k`` columns.
    """
    w = conv.weight.detach().double()
    o, i, ky, kx = w.shape
    spectrum, cut = halves(w.permute(1, 2, 0, 3).reshape(i * ky, o * kx))

    def build(ranks: Sequence[int], rough: bool) -> tuple[Factor, ...]:
        v, h = cut(ranks[0])
        tall, wide = v.T.reshape(-1, i, ky, 1), h.reshape(-1, o, 1, kx).transpose(0, 1)
        return Factor.tall(conv, tall), Factor.wide(conv, wide)

    return Split((spectrum,), build)
