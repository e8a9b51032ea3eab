"""Numbers that judge a model: how accurate it is, and how sure we may be of that."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rescompress.agreement import ClassDrop, McNemar
from rescompress.spec import Proportion


def wilson(proportion: Proportion) -> tuple[float, float]:
    r"""Score interval of a proportion, 95 %, in percent (Wilson 1927).

    With p the observed proportion, n the trials and z = 1.96 the normal quantile, the interval is
    (p + z²/2n ± z·√(p(1 - p)/n + z²/4n²)) / (1 + z²/n). Unlike p ± z·√(p(1 - p)/n) it stays inside
    [0, 100] and does not collapse at p = 0 or p = 1.

    Source:
        E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference,
        Journal of the American Statistical Association 22 (158), 1927.
    """
    n, z = proportion.total, 1.959963984540054
    if not n:
        return (0.0, 100.0)
    p = proportion.correct / n
    centre = p + z**2 / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((centre + sign * spread) / (1 + z**2 / n) for sign in (-1, 1))
    return (100 * max(low, 0.0), 100 * min(high, 1.0))


def top1(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Proportion:
    """Images whose largest logit ``[n, classes]`` is that of their label ``[n]``."""
    return Proportion(int((logits.argmax(1) == labels).sum()), len(labels))


def agreement(reference: NDArray[np.float32], other: NDArray[np.float32]) -> Proportion:
    """Images for which two sets of logits ``[n, classes]`` name the same class."""
    return Proportion(int((reference.argmax(1) == other.argmax(1)).sum()), len(reference))


def mcnemar(reference: NDArray[np.bool_], other: NDArray[np.bool_]) -> McNemar:
    r"""Whether two models that saw the same images are equally good (McNemar 1947).

    Of the n images that one alone gets right, each would be either's with probability 1/2 if they were. With b the
    smaller share, the exact two-sided p is min(1, 2 Σ_{i ≤ b} C(n, i) / 2ⁿ).

    Args:
        reference: images ``[n]`` that the one gets right.
        other: images ``[n]`` that the other gets right.

    Source:
        Q. McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
        Psychometrika 12 (2), 1947; exact form: A. L. Edwards, Psychometrika 13 (3), 1948.
    """
    lost, won = int((reference & ~other).sum()), int((other & ~reference).sum())
    n, term, ways = lost + won, 1, 0
    for i in range(min(lost, won) + 1):
        ways += term
        term = term * (n - i) // (i + 1)
    return McNemar(lost, won, min(1.0, 2 * ways / 2**n))


def worst_class(
    reference: NDArray[np.bool_], other: NDArray[np.bool_], labels: NDArray[np.int64], names: Sequence[str], least: int
) -> ClassDrop | None:
    """The class that loses most accuracy from one model to the other, the first of several.

    Args:
        reference: images ``[n]`` that the one gets right.
        other: images ``[n]`` that the other gets right.
        labels: class of each image ``[n]``.
        names: of the classes.
        least: images that a class needs to be looked at.
    """
    counts = np.bincount(labels, minlength=len(names))
    lost = np.bincount(labels, weights=reference.astype(np.float64) - other, minlength=len(names))
    enough = np.flatnonzero(counts >= least)
    if not enough.size:
        return None
    worst = int(enough[np.argmax(lost[enough] / counts[enough])])
    return ClassDrop(names[worst], float(100 * lost[worst] / counts[worst]), int(counts[worst]))


def sqnr_db(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Signal to quantization noise ratio, ``10 log10(sum r² / sum (r - o)²)``, in dB; infinite where they are equal."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(reference.astype(np.float64) - other).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
