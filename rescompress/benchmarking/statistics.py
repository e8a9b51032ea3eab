"""From nanoseconds to numbers with intervals: medians of launches, and a bootstrap whose blocks are the launches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64] | NDArray[np.float64]

_RESAMPLES = 10_000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def quiet(blocks: Sequence[Times]) -> float:
    """Latency of the undisturbed queries, in the unit of the input: the lower decile of all of them.

    Other work on the machine only ever adds time, and to a network's long queries more often than to a layer's short
    ones. This is for what is compared with itself, such as the layers of a network; numbers that are shown to people
    are ``p50`` with its interval.

    Args:
        blocks: per block, the latencies of its queries ``[queries]``.
    """
    return float(np.quantile(np.concatenate(blocks), 0.1))


def settled(blocks: Sequence[Times]) -> bool:
    """Whether the quickest block's median was met, within 3 %, by two more blocks: then it is no accident.

    Args:
        blocks: per block, the latencies of its queries ``[queries]``.
    """
    medians = sorted(float(np.median(block)) for block in blocks)
    return len(medians) > 2 and medians[2] <= 1.03 * medians[0]


def p50(launches: Sequence[Times], rng: np.random.Generator) -> Estimate:
    """Median latency, in the unit of the input: the geometric mean of the launches' medians.

    Args:
        launches: per launch, the latencies of all queries ``[queries]``; every value is positive.
        rng: draws the resamples.
    """
    return geometric_mean(_medians(launches), rng)


def ratio(launches: Sequence[Times], baseline: Sequence[Times], rng: np.random.Generator) -> Estimate:
    """How many times the baseline's latency this is; launch ``i`` is compared with the baseline's launch ``i``.

    The pairs ran at the same time, so a launch in which the whole machine was slow cancels out. As ``p50`` is a
    geometric mean, this value is exactly the quotient of the two.
    """
    return geometric_mean(_medians(launches) / _medians(baseline), rng)


def paired(
    launches: Sequence[Sequence[Times]], baseline: Sequence[Sequence[Times]], rng: np.random.Generator
) -> Estimate:
    """The ratio of candidates that took turns: block ``k`` of a launch ran next to block ``k`` of the baseline's.

    A slow phase of the machine that is longer than a round hits both and cancels out in the round's own ratio; one
    that hits a single block spoils a single round, and the median of the rounds doesn't heed it. The median is that
    of the logarithms, so that swapping the two inverts the ratio. Pairing is the idea of duet benchmarking (Bulej et
    al. 2020, arXiv:2001.05811). With blocks of 10 ms on two cores that five other programs wanted too, it scattered by
    2 % from launch to launch, where the quotient of the launches' medians scattered by 3 to 4 %.

    Args:
        launches: per launch its blocks, each with the latencies of its queries ``[queries]``.
        baseline: as many blocks of the baseline, in the same rounds.
        rng: draws the resamples.
    """
    logs = [np.log(_medians(mine) / _medians(theirs)) for mine, theirs in zip(launches, baseline, strict=True)]
    return geometric_mean(np.exp([np.median(of_one) for of_one in logs]), rng)


def geometric_mean(x: NDArray[np.float64], rng: np.random.Generator) -> Estimate:
    """Geometric mean of one positive number per launch, with a 95 % block-bootstrap interval.

    Launches are resampled with replacement, each with its own median: the spread of the medians already holds what
    happens within a launch, and resampling blocks as well would count that twice. A plain percentile interval is
    too narrow for few launches (it covers 83 % instead of 95 % for five), because resampling shrinks the variance
    by ``(n - 1) / n`` and takes the normal quantile ``z`` where Student's ``t`` is due. So its distances to the
    estimate are stretched, on the logarithmic scale, by ``sqrt(n / (n - 1)) * t / z``: Hesterberg 2015, "What
    Teachers Should Know About the Bootstrap" (arXiv:1411.5279). He takes quantiles further out instead; those end
    at the smallest and the largest launch, and cover 91 % for five.

    Args:
        x: one value per launch ``[launches]``, at least two.
        rng: draws the resamples.
    """
    log_x = np.log(x)
    n = len(log_x)
    value = float(log_x.mean())
    means = log_x[rng.integers(0, n, (_RESAMPLES, n))].mean(axis=1)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail]) - value
    z = NormalDist().inv_cdf(1 - tail)
    stretch = math.sqrt(n / (n - 1)) * student_t(z, n - 1) / z
    # equal launches differ from their own mean in the last bit
    return Estimate(
        math.exp(value),
        math.exp(value + min(0.0, stretch * float(low))),
        math.exp(value + max(0.0, stretch * float(high))),
    )


def student_t(z: float, nu: int) -> float:
    """Quantile of Student's t with ``nu`` degrees of freedom, from the normal quantile ``z`` of the same probability.

    Abramowitz and Stegun 1964, 26.7.5; for 97.5 % it is 1 % too small at ``nu = 2`` and exact to 0.1 % from 4 on.
    """
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / nu + g2 / nu**2 + g3 / nu**3 + g4 / nu**4


def cov(blocks: Sequence[Times]) -> float:
    """Coefficient of variation of the blocks' medians: how far the headline wobbles from block to block.

    It is not taken over single queries: there one interruption of 20 ms among a thousand queries of 1 ms makes 60 %,
    which says nothing about the median. The tail is what the percentiles and ``ecdf_ms`` are for.
    """
    m = _medians(blocks)
    return float(m.std() / m.mean())


def mad(times: Times) -> float:
    """Median absolute deviation from the median, in the unit of the input, not scaled to a normal distribution's."""
    return float(np.median(np.abs(times - np.median(times))))


def drift(blocks: Sequence[Times]) -> float:
    """Change from the first to the last third of the blocks, in the order of measurement; 0.03 means 3 % slower."""
    m = _medians(blocks)
    third = max(1, len(m) // 3)
    return float(np.median(m[-third:]) / np.median(m[:third]) - 1)


def ecdf(times: Times) -> tuple[float, ...]:
    """The 0th to 100th percentile: 101 points of the empirical distribution function."""
    return tuple(np.quantile(times, np.linspace(0, 1, 101)).tolist())


def _medians(groups: Sequence[Times]) -> NDArray[np.float64]:
    return np.array([np.median(times) for times in groups], np.float64)
