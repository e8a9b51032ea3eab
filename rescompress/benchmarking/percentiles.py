"""Percentiles that so many queries can vouch for: the upper bound of LoadGen's early stopping.

Of ``n`` queries, as many as ``t`` may be slower than the ``p``-th percentile's bound, where so few slow ones would be
seen with a chance below 1 % if that percentile were any larger: ``P(Binomial(n, 1 - p) <= t) < 0.01``. The bound is
the ``t``-th largest latency, for the largest such ``t``, and at least one query may be slow; so 64 queries are the
least for p90, 130 for p95 and 662 for p99. That is what ``early_stopping.cc`` and ``results.cc`` of MLPerf LoadGen
compute (https://github.com/mlcommons/inference/tree/master/loadgen) at their confidence of 0.99 and tolerance of 0.
Like LoadGen it takes queries for independent, which neighbours in a burst are not.
"""

import math

import numpy as np

from rescompress.benchmarking.statistics import Times

_CHANCE = 0.01


def upper_bound(times: Times, percentile: float) -> float | None:
    """What a percentile is at most, in the unit of the input; None where the queries are too few to tell.

    Args:
        times: latencies ``[queries]``.
        percentile: from 0 to 1, exclusively.
    """
    slow = slow_allowed(times.size, percentile)
    return float(np.partition(times, -slow)[-slow]) if slow else None


def slow_allowed(queries: int, percentile: float) -> int:
    """How many of so many queries may be slower than the bound; 0 where the queries are too few.

    Args:
        queries: that were measured.
        percentile: from 0 to 1, exclusively.
    """
    most = math.ceil(queries * (1 - percentile))  # the mean; the chance of as few is about one half
    t = np.arange(most)
    odds = np.log((queries - t) / (t + 1)) + math.log((1 - percentile) / percentile)
    chances = np.cumsum(np.exp(queries * math.log(percentile) + np.concatenate([[0.0], np.cumsum(odds)])))
    return max(0, int(np.searchsorted(chances, _CHANCE)) - 1)
