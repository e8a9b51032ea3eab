"""A 1 x 1 convolution, a k x k between few channels, a 1 x 1 (Kim et al. 2016, arXiv:1511.06530)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from rescompress.factorization.chain import Factor
from rescompress.factorization.ranks import Spectrum
from rescompress.factorization.split import Split, basis, pointwise


def split(conv: nn.Conv2d, *, iterations: Annotated[int, Field(ge=0, le=100)] = 3) -> Split:
    """``W ≈ C ×_o A ×_i B``: ``Bᵀ`` thins the inputs, C convolves, A widens to the outputs.

    HOSVD, then HOOI (De Lathauwer et al. 2000). What may be lost is shared evenly by the two modes. A 1 x 1
    convolution has a plain matrix for its weight, and becomes two.

    Args:
        conv: what is split.
        iterations: of HOOI, each of which brings C, A and B nearer to W.
    """
    if conv.kernel_size == (1, 1):
        return pointwise(conv)
    w = conv.weight.detach().double()
    (all_a, of_outputs), (all_b, of_inputs) = basis(w), basis(w.transpose(0, 1))
    o, i, area = w.shape[0], w.shape[1], w[0, 0].numel()

    def build(ranks: Sequence[int], rough: bool) -> tuple[Factor, ...]:
        a, b = all_a[:, : ranks[0]], all_b[:, : ranks[1]]
        for _ in range(0 if rough else iterations):
            b = basis(torch.einsum("oiyx,or->iryx", w, a))[0][:, : ranks[1]]
            a = basis(torch.einsum("oiyx,is->osyx", w, b))[0][:, : ranks[0]]
        c = w.new_zeros(*ranks, *w.shape[2:]) if rough else torch.einsum("oiyx,or,is->rsyx", w, a, b)
        return Factor(b.T[:, :, None, None]), Factor.like(conv, c), Factor(a[:, :, None, None])

    rows = Spectrum(of_outputs[None, : i * area], (o, i * area), 0.5)
    return Split((rows, Spectrum(of_inputs[None, : o * area], (i, o * area), 0.5)), build)
