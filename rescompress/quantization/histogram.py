"""A histogram of a value that streams by: memory of constant size, exact extremes, exact counts."""

from collections.abc import Iterator
from copy import copy
from math import floor, frexp

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

BINS = 2048
CHUNK = 1 << 17
"""Values that are counted at a time: few enough that what is made on the way stays in the processor's cache."""
LANES = 4
"""Neighbours are counted apart: of a ReLU's many zeros, one needn't wait for the one before it to be counted."""

_LANE_OF = torch.arange(CHUNK, dtype=torch.int32).remainder_(LANES).mul_(BINS)


class Histogram:
    """Counts of a value that streams by, in ``BINS`` bins whose width is a power of two.

    Bin edges are multiples of the width, so doubling the width merges whole bins: counts are exact, and neither the
    order nor the batching of the images changes the outcome.
    """

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")
        self.width = 0.0
        self.first = 0
        self.counts: Num[Tensor, " bins"] = torch.zeros(BINS, dtype=torch.int64)

    @classmethod
    def of(cls, low: float, high: float, counts: Int[Tensor, " bins"]) -> "Histogram":
        """The histogram with these extremes and counts; where its bins lie follows from the extremes.

        Raises:
            ValueError: there is no such histogram.
        """
        made = cls()
        if not (low - low == 0 and high - high == 0 and low <= high):
            raise ValueError("the extremes are no range")
        made.low, made.high = low, high
        made._make_room()
        ends = {floor(low / made.width) - made.first, floor(high / made.width) - made.first}
        filled = counts.shape == (BINS,) and bool((counts >= 0).all()) and all(counts[end] > 0 for end in ends)
        if not filled or bool(counts[max(ends) + 1 :].any()):
            raise ValueError("the counts don't fit the extremes")
        made.counts = counts
        return made

    @property
    def total(self) -> int:
        """How many values were seen."""
        return int(self.counts.sum())

    @property
    def edges(self) -> Float[Tensor, " edges"]:
        """The bins' borders, in double precision."""
        return (torch.arange(BINS + 1, dtype=torch.float64) + self.first) * self.width

    def bins_of(self, x: Float[Tensor, "*k"]) -> Int[Tensor, "*k"]:
        """The bin of each value, or one beside it; what lies beyond the extremes is in an outermost one."""
        return (x / self.width).floor_().sub_(self.first).clamp_(0, BINS - 1).int()

    def weighed(self, weights: Float[Tensor, " bins"]) -> "Histogram":
        """The same extremes and bins, each count times its weight; as it is where weights are all 0, or not finite."""
        made = copy(self)
        counts = self.counts * weights
        made.counts = counts if bool(counts.any() and counts.isfinite().all()) else self.counts
        return made

    def update(self, x: Float[Tensor, "..."]) -> None:
        """Count more values.

        Raises:
            ValueError: there are NaN or infinite values among them.
        """
        x = _as_stored(x.detach())
        low, high = (float(end) for end in x.aminmax())
        if not (low - low == 0 and high - high == 0):
            raise ValueError("not a number, or infinite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._make_room()
        # A width that float32 can divide by: the quotient is exact, for the width is a power of two, and below 2^25.
        # Were the width above 1, a quotient could vanish below float32's smallest number and lose its sign.
        exact = torch.float32 if x.dtype == torch.float32 and 2.0**-126 <= self.width <= 1 else torch.float64
        for part in _chunks(x):
            places = part.to(exact) * (1 / self.width)
            places = (places.floor_() if low < 0 else places).to(torch.int32)  # what is positive is cut off alike
            found = torch.bincount(places.sub_(self.first).add_(_LANE_OF[: len(places)]), minlength=LANES * BINS)
            self.counts += found.view(LANES, BINS).sum(0)

    def _make_room(self) -> None:
        """Widen and move the bins until they cover the extremes."""
        width = _width(self.low, self.high)
        first = floor(self.low / width)
        if (width, first) == (self.width, self.first):
            return
        if self.width:
            old = torch.arange(BINS, dtype=torch.float64) + self.first
            places = (old / (width / self.width)).floor().to(torch.int64) - first
            full = self.counts > 0
            self.counts = torch.bincount(places[full], self.counts[full], minlength=BINS).to(torch.int64)
        self.width, self.first = width, first


def _as_stored(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The same values with their axes in the order of memory; against it, the extremes take twenty times as long."""
    stored = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x.permute(0, 2, 3, 1) if stored else x


def _chunks(x: Float[Tensor, "..."]) -> Iterator[Float[Tensor, " k"]]:
    """All values, none copied where they lie together."""
    for rows in [x] if x.is_contiguous() else torch.split(x, 1):
        yield from torch.split(rows.reshape(-1), CHUNK)


def _width(low: float, high: float) -> float:
    """The smallest power of two by which ``BINS`` bins cover the range; it depends on nothing else.

    Bins narrower than the spacing of float32 at the range's larger end would stay empty, so they are not made.
    """
    finest = max((high - low) / BINS, max(abs(low), abs(high)) * 2.0**-24, 2.0**-149)
    width = 2.0 ** (frexp(finest)[1] - 1)
    while floor(high / width) - floor(low / width) >= BINS:
        width *= 2
    return width
