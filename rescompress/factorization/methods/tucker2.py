"""A 1 x 1 convolution, a k x k between few channels, a 1 x 1 (Kim et al. 2016, arXiv:1511.06530)."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from rescompress.factorization.chain import Factor
from rescompress.factorization.ranks import Ranks, halves


def split(conv: nn.Conv2d, ranks: Ranks, *, iterations: Annotated[int, Field(ge=0, le=100)] = 3) -> tuple[Factor, ...]:
    """``W ≈ C ×_o A ×_i B``: ``Bᵀ`` thins the inputs, C convolves, A widens to the outputs.

    HOSVD, then HOOI (De Lathauwer et al. 2000). What may be lost is shared evenly by the two modes. A 1 x 1
    convolution has a plain matrix for its weight, and becomes two.

    Args:
        conv: what is split.
        ranks: says how many columns A and B have.
        iterations: of HOOI, each of which brings C, A and B nearer to W.
    """
    w = conv.weight.detach().double()
    if conv.kernel_size == (1, 1):
        p, q = halves(w.flatten(1), ranks)
        return Factor.like(conv, q[:, :, None, None]), Factor(p[:, :, None, None])
    (a, of_outputs), (b, of_inputs) = _basis(w), _basis(w.transpose(0, 1))
    a, b = a[:, : ranks.of(of_outputs, 0.5)], b[:, : ranks.of(of_inputs, 0.5)]
    for _ in range(iterations):
        b = _basis(torch.einsum("oiyx,or->iryx", w, a))[0][:, : b.shape[1]]
        a = _basis(torch.einsum("oiyx,is->osyx", w, b))[0][:, : a.shape[1]]
    c = torch.einsum("oiyx,or,is->rsyx", w, a, b)
    return Factor(b.T[:, :, None, None]), Factor.like(conv, c), Factor(a[:, :, None, None])


def _basis(w: Float[Tensor, "n m kh kw"]) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
    """Left singular vectors of W unfolded along its first axis, and the squared singular values; largest first."""
    unfolded = w.flatten(1)
    squares, vectors = torch.linalg.eigh(unfolded @ unfolded.T)
    return vectors.flip(1), squares.flip(0).clamp_min(0)
