"""How far two runs are apart, with intervals made of both runs' own: what was never measured side by side."""

import math
from collections.abc import Sequence

from rescompress.benchmarking.results import Measured, Results
from rescompress.benchmarking.statistics import Estimate
from rescompress.metrics import wilson
from rescompress.spec import Environment, LatencyRow, Proportion

SMALLEST = 0.01
"""Share of the latency below which nobody calls a difference one."""
MACHINE = ("machine", "cpu", "cores", "isa")
"""What makes another machine of it; releases are what one wants to compare."""


def ratio(now: LatencyRow, before: LatencyRow) -> Estimate:
    """How many times as long the median takes as in another run.

    The distance from the estimate to an end of the interval is the root of the squared distances of the two medians to
    their own ends, on the logarithmic scale. Both runs had their own disturbances, so they count as independent.

    Source:
        G. Y. Zou and A. Donner, Construction of confidence limits about effect measures: a general approach,
        Statistics in Medicine 27 (10), 2008.
    """
    mine, theirs = (_logs(row.p50_ms, row.p50_low_ms, row.p50_high_ms) for row in (now, before))
    return _exp(_difference(mine, theirs))


def ratio_of_ratios(now: LatencyRow, before: LatencyRow) -> Estimate:
    """The same for two latencies that were each measured beside the same unchanged artifact, which stands for 1."""
    mine, theirs = (_logs(row.ratio, row.ratio_low, row.ratio_high) for row in (now, before))
    return _exp(_difference(mine, theirs))


def points(now: Proportion, before: Proportion) -> Estimate:
    """Percentage points of accuracy gained, as if both had seen different images: the interval is then at its widest.

    Source:
        R. G. Newcombe, Interval estimation for the difference between independent proportions: comparison of eleven
        methods, Statistics in Medicine 17 (8), 1998, method 10.
    """
    mine, theirs = (Estimate(one.percent, *wilson(one)) for one in (now, before))
    return _difference(mine, theirs)


def noise(runs: Sequence[Results]) -> float:
    """The largest share by which equal artifacts differed in any of these runs, and at least ``SMALLEST``."""
    return max([SMALLEST, *(run.benchmark.noise_floor for run in runs if run.benchmark)])


def is_real(change: Estimate, floor: float) -> bool:
    """Whether a ratio is neither within its interval of 1 nor within the noise."""
    return not change.low <= 1 <= change.high and abs(change.value - 1) > floor


def other_machine(now: Results, before: Results) -> str:
    """What of the machine differs, in words; empty where latencies may be compared."""
    ours, theirs = now.environment, before.environment
    differ = [
        f"{name} {_told(ours, name)} and {_told(theirs, name)}" for name in MACHINE if _differ(ours, theirs, name)
    ]
    devices = [run.benchmark.device for run in (now, before) if run.benchmark]
    if len(set(devices)) > 1:
        differ.append(f"device {' and '.join(device or 'this machine' for device in devices)}")
    return ", ".join(differ)


def unchanged(now: Measured, before: Measured) -> bool:
    """Whether it is the same artifact, bit for bit."""
    return bool(now.sha256) and now.sha256 == before.sha256


def _difference(mine: Estimate, theirs: Estimate) -> Estimate:
    value = mine.value - theirs.value
    low = math.hypot(mine.value - mine.low, theirs.high - theirs.value)
    high = math.hypot(mine.high - mine.value, theirs.value - theirs.low)
    return Estimate(value, value - low, value + high)


def _logs(value: float, low: float, high: float) -> Estimate:
    return Estimate(math.log(value), math.log(low), math.log(high))


def _exp(x: Estimate) -> Estimate:
    return Estimate(math.exp(x.value), math.exp(x.low), math.exp(x.high))


def _differ(ours: Environment, theirs: Environment, name: str) -> bool:
    return bool(getattr(ours, name) != getattr(theirs, name))


def _told(environment: Environment, name: str) -> str:
    value = getattr(environment, name)
    return " ".join(value) if isinstance(value, tuple) else str(value)
