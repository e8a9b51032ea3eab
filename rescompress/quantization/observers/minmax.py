"""The exact extremes: nothing is clipped, and one outlier coarsens the whole grid."""

from rescompress.quantization.calibration import Histogram


def range_of(histogram: Histogram) -> tuple[float, float]:
    """The smallest and the largest value that was seen."""
    return histogram.low, histogram.high
