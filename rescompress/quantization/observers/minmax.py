"""The exact extremes: nothing is clipped, and one outlier coarsens the whole grid."""

from rescompress.quantization.grid import UINT8, Grid, Range
from rescompress.quantization.histogram import Histogram

WEIGHED = False


def ranges_of(histogram: Histogram, grid: Grid = UINT8) -> tuple[Range]:
    """The smallest and the largest value that was seen, and 0."""
    return ((min(histogram.low, 0.0), max(histogram.high, 0.0)),)
