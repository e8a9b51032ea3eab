"""Calibration: images pass once, and each watched value leaves a histogram of constant size with exact extremes."""

from collections.abc import Collection, Iterable
from math import floor, frexp
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, fx

from rescompress.errors import InputRefused

BINS = 2048


class Histogram:
    """Counts of a value that streams by, in ``BINS`` bins whose width is a power of two.

    Bin edges are multiples of the width, so doubling the width merges whole bins: counts are exact, and neither the
    order nor the batching of the images changes the outcome.
    """

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")
        self.width = 0.0
        self.first = 0
        self.counts: Int[Tensor, " bins"] = torch.zeros(BINS, dtype=torch.int64)

    @property
    def total(self) -> int:
        """How many values were seen."""
        return int(self.counts.sum())

    @property
    def edges(self) -> Float[Tensor, " edges"]:
        """The bins' borders, in double precision."""
        return (torch.arange(BINS + 1, dtype=torch.float64) + self.first) * self.width

    def update(self, x: Float[Tensor, "..."]) -> None:
        """Count more values.

        Raises:
            ValueError: there are NaN or infinite values among them.
        """
        x = x.detach().flatten()
        low, high = (float(end) for end in x.aminmax())
        if not (low - low == 0 and high - high == 0):
            raise ValueError("not a number, or infinite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._make_room()
        places = (x.double() / self.width).floor().to(torch.int64) - self.first
        self.counts += torch.bincount(places, minlength=BINS)

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


def _width(low: float, high: float) -> float:
    """The smallest power of two by which ``BINS`` bins cover the range; it depends on nothing else.

    Bins narrower than the spacing of float32 at the range's larger end would stay empty, so they are not made.
    """
    finest = max((high - low) / BINS, max(abs(low), abs(high)) * 2.0**-24, 2.0**-149)
    width = 2.0 ** (frexp(finest)[1] - 1)
    while floor(high / width) - floor(low / width) >= BINS:
        width *= 2
    return width


def calibrate(
    traced: fx.GraphModule, batches: Iterable[Float[Tensor, "_ 3 h w"]], watched: Collection[str]
) -> dict[str, Histogram]:
    """One histogram for each watched value; memory doesn't grow with the number of images.

    Args:
        traced: a captured graph.
        batches: normalized images.
        watched: stable names of values.

    Raises:
        InputRefused: a value is NaN or infinite; the layer is named.
    """
    histograms = {name: Histogram() for name in sorted(watched)}
    watcher = _Watcher(traced, histograms)
    with torch.no_grad():
        for images in batches:
            watcher.run(images)
    return histograms


class _Watcher(fx.Interpreter):
    def __init__(self, traced: fx.GraphModule, histograms: dict[str, Histogram]) -> None:
        super().__init__(traced)
        self._histograms = histograms

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        name = n.meta.get("value_name")
        if name in self._histograms:
            try:
                self._histograms[name].update(result)
            except ValueError as error:
                raise InputRefused(
                    f"The output of {name} is {error}.", "Check the images and the checkpoint's weights."
                ) from None
        return result
