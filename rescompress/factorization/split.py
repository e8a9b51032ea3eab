"""One way to split a convolution, its ranks yet to be chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.factorization.chain import Factor
from rescompress.factorization.ranks import Ranks, Spectrum

Matrix = Float[Tensor, "_ _"]


@dataclass(frozen=True)
class Split:
    """What a method file gives back.

    Attributes:
        spectra: one for each rank that is to be chosen.
        build: from the ranks to the chain's factors. Its second argument says that only their shapes matter, so that
            costly refinement can be left out.
    """

    spectra: tuple[Spectrum, ...]
    build: Callable[[Sequence[int], bool], tuple[Factor, ...]]

    def ranks(self, rule: Ranks) -> tuple[int, ...]:
        """The ranks that a rule chooses."""
        return tuple(rule.of(spectrum) for spectrum in self.spectra)

    def lost(self, ranks: Sequence[int]) -> float:
        """Share of the weight's energy that is lost at most; exact where there is one rank and no refinement."""
        return sum(spectrum.lost(rank) for spectrum, rank in zip(self.spectra, ranks, strict=True))

    def at(self, ranks: Sequence[int]) -> tuple[Factor, ...]:
        """The chain's factors."""
        return self.build(ranks, False)

    def outline(self, ranks: Sequence[int]) -> tuple[Factor, ...]:
        """Factors of the shapes that the chain will have."""
        return self.build(ranks, True)


def halves(matrix: Float[Tensor, "m n"]) -> tuple[Spectrum, Callable[[int], tuple[Matrix, Matrix]]]:
    """The spectrum of a matrix, and the way from r to ``U_r S_r^½`` and ``S_r^½ V_rᵀ``.

    Their product is the nearest matrix of rank r (Eckart and Young 1936). Both get half of the singular values, so that
    neither dominates in INT8 or under weight decay.
    """
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)

    def cut(rank: int) -> tuple[Matrix, Matrix]:
        root = s[:rank].sqrt()
        return u[:, :rank] * root, root[:, None] * vt[:rank]

    return Spectrum(s.square()[None], (matrix.shape[0], matrix.shape[1])), cut


def pointwise(conv: nn.Conv2d) -> Split:
    """The one way to split a 1 x 1 convolution, whose weight is a plain matrix: into two of them."""
    spectrum, cut = halves(conv.weight.detach().double().flatten(1))

    def build(ranks: Sequence[int], rough: bool) -> tuple[Factor, ...]:
        p, q = cut(ranks[0])
        return Factor.like(conv, q[:, :, None, None]), Factor(p[:, :, None, None])

    return Split((spectrum,), build)


def basis(w: Float[Tensor, "n ..."]) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
    """Left singular vectors of W unfolded along its first axis, and the squared singular values; largest first."""
    unfolded = w.flatten(1)
    squares, vectors = torch.linalg.eigh(unfolded @ unfolded.T)
    return vectors.flip(1), squares.flip(0).clamp_min(0)
