"""Judges an INT8 artifact by its logits beside those of its own FP32, and two artifacts by what they get right."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rescompress import metrics

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Judged:
    """One artifact in one runtime; percentages, points and decibels.

    Attributes:
        accuracy: top-1, in percent.
        drop: points lost against its own FP32 in the same runtime; ``low`` and ``high`` are its paired 95 % interval.
        agreement: share of images on which it names the same class as its FP32, in percent.
        sqnr_db: of the logits.
    """

    accuracy: float
    drop: float
    low: float
    high: float
    agreement: float
    sqnr_db: float

    def row(self) -> dict[str, float | None]:
        """Rounded for the results; JSON has no infinity, so there is no SQNR where nothing differs."""
        return {name: round(float(value), 3) if math.isfinite(value) else None for name, value in asdict(self).items()}


def judge(reference: Array, found: Array, labels: Array) -> Judged:
    """Compare logits ``[n, classes]`` with those of the FP32 model on the same images with labels ``[n]``."""
    lost = 100.0 * (right(reference, labels).astype(float) - right(found, labels))
    half = 1.96 * lost.std(ddof=1) / math.sqrt(len(lost))
    return Judged(
        metrics.top1(found, labels).percent,
        lost.mean(),
        lost.mean() - half,
        lost.mean() + half,
        metrics.agreement(reference, found).percent,
        metrics.sqnr_db(reference, found),
    )


def right(logits: Array, labels: Array) -> Array:
    """Which images are told right ``[n]``."""
    found: Array = logits.argmax(1) == labels
    return found


def mcnemar(one: Array, other: Array) -> float:
    """Exact two-sided p of McNemar's test: of the images that just one gets right, each is as likely to be either's.

    Source:
        Q. McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
        Psychometrika 12 (2), 1947.
    """
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    n = only_one + only_other
    tail = sum(math.comb(n, k) for k in range(min(only_one, only_other) + 1))
    return min(1.0, 2 * tail / 2**n)
