"""A k x 1 convolution, then a 1 x k (scheme 2 of Jaderberg et al. 2014, arXiv:1405.3866)."""

from torch import nn

from rescompress.factorization.chain import Factor, Pair
from rescompress.factorization.ranks import Ranks, halves


def split(conv: nn.Conv2d, ranks: Ranks) -> tuple[Factor, ...]:
    """``W[o, i, y, x] ≈ sum_r h[o, r, x] v[r, i, y]``.

    In closed form (Tai et al. 2016, arXiv:1511.06067): the SVD of the matrix of ``i k`` rows and ``o k`` columns.
    """
    w = conv.weight.detach().double()
    o, i, ky, kx = w.shape
    v, h = halves(w.permute(1, 2, 0, 3).reshape(i * ky, o * kx), ranks)
    (sy, sx), (dy, dx) = conv.stride, conv.dilation
    tall = Factor(v.T.reshape(-1, i, ky, 1), (sy, 1), _padding(conv, 0), (dy, 1))
    wide = Factor(h.reshape(-1, o, 1, kx).transpose(0, 1), (1, sx), _padding(conv, 1), (1, dx))
    return tall, wide


def _padding(conv: nn.Conv2d, axis: int) -> Pair | str:
    """The padding along one axis only; ``same`` and ``valid`` mean that by themselves, as the kernel is thin."""
    if isinstance(conv.padding, str):
        return conv.padding
    return (conv.padding[0], 0) if axis == 0 else (0, conv.padding[1])
