"""MLPerf's scenarios in a benchmark: which knobs they take, and what LoadGen's runs add to the numbers.

Arrivals and images are LoadGen's (see ``rescompress.loadgen``); processes, warm-up, statistics and verdict are those
of every benchmark. Runs are short, so the numbers are NOT MLPerf results; with ``blocks=60, block_seconds=10`` each run
lasts MLPerf's own 600 s, and they still are not.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rescompress import loadgen
from rescompress.benchmarking import percentiles, statistics
from rescompress.benchmarking.statistics import Estimate
from rescompress.errors import RecipeError
from rescompress.loadgen import Answered, Traffic
from rescompress.timing import LatencyRow, Scenario

SAMPLES_PER_QUERY = 8
"""Images of a query in MLPerf's multi-stream scenario."""
SLO_MS = 15.0
"""MLPerf's limit for ResNet-50 in the server scenario."""
_QUERIES = {"single-stream": 64, "multi-stream": 662, "offline": 64, "server": 662}
"""In all launches together: what it takes to vouch for a 90th percentile, or a 99th."""
_SHARE_IN_TIME = 0.99
_BLOCKS = 10

Runs = Sequence[Sequence[Answered]]
"""What LoadGen saw, by launch and candidate; the last candidate is the copy of the baseline."""


def agree(knobs: Mapping[str, Any]) -> None:
    """Refuse knobs that say nothing in the chosen scenario.

    Raises:
        RecipeError: there is one, or the server scenario lacks its rate.
    """
    scenario = knobs["scenario"]
    if scenario == "server" and knobs["qps"] is None:
        raise RecipeError(
            "The server scenario needs the rate at which queries arrive.", "Give it one, such as qps: 50."
        )
    for knob, of, default in (
        ("qps", "server", None),
        ("slo_ms", "server", None),
        ("samples_per_query", "multi-stream", SAMPLES_PER_QUERY),
    ):
        if scenario != of and knobs[knob] != default:
            raise RecipeError(f"{knob} says nothing in the {scenario} scenario.", f"Leave it out, or ask for {of}.")
    if scenario != "interleaved" and knobs.get("device"):
        raise RecipeError("LoadGen asks on this machine only.", "Leave device out, or time it interleaved.")
    if scenario in ("single-stream", "multi-stream") and knobs["batch"] != 1:
        raise RecipeError(
            f"Queries of the {scenario} scenario have their own size; batch says nothing there.",
            "Leave batch out; samples_per_query is how many images a multi-stream query has.",
        )


def traffic(
    scenario: Scenario,
    *,
    launches: int,
    seconds: float,
    batch: int,
    samples_per_query: int,
    qps: float | None,
    slo_ms: float | None,
) -> Traffic | None:
    """What LoadGen is asked to do in the first launch; None where it isn't needed.

    Args:
        scenario: who asks.
        launches: that share the queries which percentiles need.
        seconds: shortest duration of a run.
        batch: images that the session gets at once.
        samples_per_query: the same in the multi-stream scenario.
        qps: queries that arrive per second.
        slo_ms: latency that they must keep.

    Raises:
        BackendMissing: LoadGen is needed, and not installed.
    """
    if scenario == "interleaved":
        return None
    loadgen.require()
    return Traffic(
        scenario=scenario,
        batch=samples_per_query if scenario == "multi-stream" else batch,
        seconds=seconds,
        queries=math.ceil(_QUERIES[scenario] / launches),
        qps=qps or 0.0,
        slo_ms=(slo_ms or SLO_MS) if scenario == "server" else 0.0,
    )


def target(traffic: Traffic | None) -> dict[str, float]:
    """The scenario's own numbers, as the row of a benchmark tells them."""
    if traffic is None:
        return {}
    found = {"seconds": traffic.seconds}
    if traffic.scenario == "multi-stream":
        found["samples_per_query"] = traffic.batch
    if traffic.scenario == "server":
        found |= {"qps": traffic.qps, "slo_ms": traffic.slo_ms}
    return found


def blocks(run: Answered, traffic: Traffic) -> tuple[list[NDArray[np.int64]], list[float]]:
    """The latencies of one run in ten blocks, and when each began, on the machine's monotonic clock in seconds.

    The server scenario has one block: shorter pieces differ because their arrivals do.
    """
    parts = min(len(run.ns), 1 if traffic.scenario == "server" else _BLOCKS)
    starts = [float(part[0]) for part in np.array_split(np.array(run.at_s), parts)]
    return np.array_split(np.array(run.ns, np.int64), parts), starts


def told(
    rows: Sequence[LatencyRow], traffic: Traffic | None, runs: Runs, rng: np.random.Generator
) -> tuple[LatencyRow, ...]:
    """The rows with what the scenario adds; without one, as they were.

    All have the throughput that LoadGen saw. In the offline scenario ``p50_ms`` is the median of the batches, which
    lie back to back: the latencies of its images would only say how far behind they stood in the one query. In the
    server scenario the rows say whether 99 % of the queries kept the limit.

    Args:
        rows: one per artifact.
        traffic: what LoadGen was asked to do.
        runs: what it saw.
        rng: draws the bootstrap's resamples.
    """
    if traffic is None:
        return tuple(rows)
    found = []
    for i, row in enumerate(rows):
        kept = within([run[i] for run in runs], traffic.slo_ms) if traffic.scenario == "server" else None
        pace = statistics.geometric_mean(_pace(runs, i), rng)
        found.append(replace(row, images_per_s=1 / pace.value, within_slo=kept))
    return tuple(found)


def ratio(traffic: Traffic | None, runs: Runs, i: int, rng: np.random.Generator) -> Estimate | None:
    """Offline, how many times the baseline's time per image a candidate takes, which is what throughput is about.

    None in other scenarios, where the latencies are compared.
    """
    if traffic is None or traffic.scenario != "offline":
        return None
    return statistics.geometric_mean(_pace(runs, i) / _pace(runs, 0), rng)


def within(runs: Sequence[Answered], slo_ms: float) -> bool | None:
    """Whether 99 % of the queries keep the limit, in all launches together.

    Yes if the upper bound of their p99 does (as LoadGen's early stopping has it, so 662 queries are the least); no if
    more than 1 % were late, or a run was given up because queries came faster than they were answered; None if there
    were too few queries to tell.
    """
    ns = np.concatenate([run.ns for run in runs])
    late = float((ns > slo_ms * 1e6).mean())
    if late > 1 - _SHARE_IN_TIME or any("min_duration" in run.unmet for run in runs):
        return False
    bound = percentiles.upper_bound(ns, _SHARE_IN_TIME)
    return True if bound is not None and bound <= slo_ms * 1e6 else None


def objections(names: Sequence[str], traffic: Traffic | None, runs: Runs) -> Iterator[str]:
    """Why LoadGen's runs are no more than indicative, a sentence each.

    Args:
        names: of the candidates.
        traffic: what LoadGen was asked to do.
        runs: what it saw.
    """
    if traffic is None:
        return
    for i, name in enumerate(names):
        of_one = [run[i] for run in runs]
        short = sum("min_duration" in run.unmet or "min_queries" in run.unmet for run in of_one)
        if short:
            why = "queries came faster than they were answered" if traffic.scenario == "server" else "it ended early"
            yield f"{short} of {len(of_one)} runs of {name} are too short for LoadGen: {why}."
        elif traffic.scenario == "server" and within(of_one, traffic.slo_ms) is None:
            yield f"{name} answered too few queries to tell whether 99 % of them keep {traffic.slo_ms:g} ms."


def _pace(runs: Runs, i: int) -> NDArray[np.float64]:
    """Seconds per image of one candidate, by launch."""
    return np.array([run[i].seconds / run[i].images for run in runs])
