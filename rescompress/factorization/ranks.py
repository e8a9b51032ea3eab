"""How thin a factor may be: the rank at which so much of a weight's energy is kept, or all that stands out of noise."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from rescompress.factorization.evbmf import significant


@dataclass(frozen=True)
class Spectrum:
    """What a rank is read off.

    Attributes:
        squares: squared singular values ``σ_j²``, largest first, a row for each of the matrices whose components are
            ranked together.
        shape: rows and columns of such a matrix.
        share: how much of what may be lost this truncation may lose, where several share it.
    """

    squares: Float[Tensor, "k n"]
    shape: tuple[int, int]
    share: float = 1.0

    @property
    def ranked(self) -> Float[Tensor, " kn"]:
        """The squares of all matrices, largest first."""
        return self.squares.flatten().sort(descending=True, stable=True).values

    def lost(self, rank: int) -> float:
        """Share of the energy that a truncation to this rank loses; 0 of nothing."""
        total = float(self.squares.sum())
        return float(self.ranked[rank:].sum()) / total if total else 0.0


@runtime_checkable
class Ranks(Protocol):
    """A rule that reads a rank off a spectrum."""

    def of(self, spectrum: Spectrum) -> int:
        """The rank, from 1 to full."""
        ...


@dataclass(frozen=True)
class ByEnergy:
    """The rank that keeps a share of the weight's squared singular values, its energy.

    Attributes:
        energy: share that is kept at least.
        round_to: what a rank is a multiple of, unless it is full.
    """

    energy: float
    round_to: int = 1

    def of(self, spectrum: Spectrum) -> int:
        """The smallest r with ``sum_{j>r} σ_j² <= share (1 - energy) sum_j σ_j²``, rounded up, at most n.

        It rounds up, where pruned widths go to the nearest multiple, because energy is a promise.
        """
        squares = spectrum.ranked
        lost = squares.flip(0).cumsum(0).flip(0)  # summed from the smallest, so that full energy means every one
        rank = int((lost > spectrum.share * (1 - self.energy) * squares.sum()).sum())
        return _rounded(rank, self.round_to, len(squares))


@dataclass(frozen=True)
class ByNoise:
    """The rank at which only noise is left, by empirical variational Bayes (EVBMF).

    Attributes:
        round_to: what a rank is a multiple of, unless it is full.
    """

    round_to: int = 1

    def of(self, spectrum: Spectrum) -> int:
        """How many components stand out of the noise of their own matrix, in all matrices together, rounded up."""
        rank = sum(significant(squares, spectrum.shape) for squares in spectrum.squares)
        return _rounded(rank, self.round_to, spectrum.squares.numel())


def _rounded(rank: int, round_to: int, full: int) -> int:
    return min(full, -(-max(1, rank) // round_to) * round_to)
