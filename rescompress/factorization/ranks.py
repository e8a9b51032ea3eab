"""How thin a factor may be: the rank at which so much of a weight's energy is kept."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """The rule that reads ranks off singular values.

    Attributes:
        energy: share of a weight's squared singular values, its energy, that is kept at least.
        round_to: what a rank is a multiple of, unless it is full.
    """

    energy: float
    round_to: int

    def of(self, squares: Float[Tensor, " n"], share: float = 1.0) -> int:
        """The smallest r with ``sum_{j>r} σ_j² <= share (1 - energy) sum_j σ_j²``, rounded up, at most n.

        It rounds up, where pruned widths go to the nearest multiple, because energy is a promise.

        Args:
            squares: squared singular values ``σ_j²``, largest first.
            share: how much of what may be lost this truncation may lose, where several share it.
        """
        lost = squares.flip(0).cumsum(0).flip(0)  # summed from the smallest, so that full energy means every one
        rank = max(1, int((lost > share * (1 - self.energy) * squares.sum()).sum()))
        return min(len(squares), -(-rank // self.round_to) * self.round_to)


def halves(matrix: Float[Tensor, "m n"], ranks: Ranks) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r n"]]:
    """``U_r S_r^½`` and ``S_r^½ V_rᵀ``, whose product is the nearest matrix of rank r (Eckart and Young 1936).

    Both get half of the singular values, so that neither dominates in INT8 or under weight decay.
    """
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    r = ranks.of(s.square())
    root = s[:r].sqrt()
    return u[:, :r] * root, root[:, None] * vt[:r]
