"""Several observers' ranges; the error that each makes in the outputs of the layers behind decides."""

from rescompress.quantization.grid import UINT8, Grid, Range
from rescompress.quantization.histogram import Histogram
from rescompress.quantization.observers import entropy, minmax, mse, percentile

WEIGHED = False
_LIKENESS = 0.01


def ranges_of(histogram: Histogram, grid: Grid = UINT8) -> tuple[Range, ...]:
    """What mse, minmax, entropy and three percentiles propose; mse comes first, for where nothing decides."""
    proposed = [
        *mse.ranges_of(histogram, grid),
        *minmax.ranges_of(histogram, grid),
        *entropy.ranges_of(histogram, grid),
        *(r for percent in (99.9, 99.99, 99.999) for r in percentile.ranges_of(histogram, grid, percent=percent)),
    ]
    kept: list[Range] = []
    for one in proposed:
        if not any(_alike(one, other) for other in kept):
            kept.append(one)
    return tuple(kept)


def _alike(one: Range, other: Range) -> bool:
    """Whether two ranges differ by less than a hundredth, which no layer's output would tell apart."""
    near = _LIKENESS * (other[1] - other[0])
    return all(abs(a - b) <= near for a, b in zip(one, other, strict=True))
