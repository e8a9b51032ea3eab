"""The integers that a value may take, and the scale and zero-point with which they cover a range."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rescompress.sites import Site

Range = tuple[float, float]
"""The smallest and the largest real number that integers stand for; 0 lies in between."""


@dataclass(frozen=True)
class Grid:
    """What an observer knows of the integer type.

    Attributes:
        q_min: smallest integer.
        q_max: largest integer.
        symmetric: the zero-point is 0, so that one scale reaches as far below 0 as above.
    """

    q_min: int = 0
    q_max: int = 255
    symmetric: bool = False

    @classmethod
    def of(cls, site: Site) -> "Grid":
        """The grid of a quantized value."""
        return cls(*site.limits, symmetric=site.symmetric)

    @property
    def levels(self) -> int:
        """How many integers there are."""
        return self.q_max - self.q_min + 1

    def affine(
        self, low: Float[Tensor, "*n"], high: Float[Tensor, "*n"]
    ) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """Scale and zero-point that cover ``[low, high]``; real 0 is always on the grid (Jacob et al. 2017, sec. 3).

        Affine: ``s = (high - low) / (q_max - q_min)``, ``z = q_min - round(low / s)``.
        Symmetric: ``s = max(|low|, |high|) / q_max``, ``z = 0``. An empty range gets the scale 1.
        """
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        reach, steps = (torch.maximum(-low, high), self.q_max) if self.symmetric else (high - low, self.levels - 1)
        scale = reach / steps
        scale = torch.where(scale > torch.finfo(torch.float32).tiny, scale, 1.0)
        zero = torch.zeros_like(scale) if self.symmetric else self.q_min - (low / scale).round()
        return scale, zero.clamp(self.q_min, self.q_max)


UINT8 = Grid()
