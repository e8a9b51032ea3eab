"""What a query costs in energy: an estimate by the machine's own counter, less what the waiting machine takes.

Such counters aren't wall meters: some sample a quarter of the time (arXiv:2312.02741). So nothing is said of less than
ten steady seconds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rescompress.backends import Images
from rescompress.benchmarking.candidates import Candidates
from rescompress.benchmarking.conditions import meters, nvml, on_gpu
from rescompress.benchmarking.conditions.files import Files
from rescompress.benchmarking.conditions.meters import Meter
from rescompress.cpu import UNAVAILABLE
from rescompress.progress import track
from rescompress.timing import BenchmarkRow
from rescompress.worker import Worker

STEADY_SECONDS = 10.0
IDLE_SECONDS = 5.0
WARM_UP_SECONDS = 1.0
Query = Callable[[float], Sequence[int]]
"""Asks for so many seconds; gives the nanoseconds of each query."""
T = TypeVar("T")


@dataclass(frozen=True)
class Energy:
    """What one artifact costs.

    Attributes:
        mj: millijoules per query; None where no counter could tell.
        said: by what it was measured, in words, or why it wasn't.
    """

    mj: float | None
    said: str


def told(row: BenchmarkRow, candidates: Candidates, files: Files | None = None) -> BenchmarkRow:
    """The row with each artifact's energy, and with how it was measured among its conditions.

    Args:
        row: of a benchmark that is over, so that nothing here disturbs what was timed.
        candidates: that took part; the baseline's copy is left out.
        files: the system's.

    Raises:
        WorkerCrashed: a runtime died.
    """
    artifacts = candidates.artifacts[:-1]
    gpu, _ = nvml.opened() if any(on_gpu(artifact.manifest) for artifact in artifacts) else (None, "")
    costs = []
    for artifact, ring in track(list(zip(artifacts, candidates.rings, strict=False)), "energy"):
        meter, hindrance = meters.found(files or Files(), gpu, on_gpu(artifact.manifest))
        costs.append(
            of_artifact(artifact.folder, ring, row.batch, row.threads, meter)
            if meter
            else Energy(None, f"{UNAVAILABLE}: {hindrance}")
        )
    if gpu:
        gpu.close()
    latencies = tuple(replace(one, energy_mj=cost.mj) for one, cost in zip(row.latencies, costs, strict=True))
    said = "; ".join(dict.fromkeys(cost.said for cost in costs))
    return replace(row, latencies=latencies, conditions={**row.conditions, "energy": said})


def of_artifact(folder: Path, ring: Images, batch: int, threads: int, meter: Meter) -> Energy:
    """The energy of one query of an artifact, in a fresh process.

    Args:
        folder: the artifact's.
        ring: images that batches are cut from.
        batch: images per query.
        threads: of the runtime.
        meter: measures meanwhile.

    Raises:
        WorkerCrashed: the runtime died.
    """
    with Worker(folder, threads) as worker:
        worker.ready()
        worker.hold(ring)
        return of_queries(lambda seconds: worker.time(seconds, batch), meter)


def of_queries(query: Query, meter: Meter, steady: float = STEADY_SECONDS, idle: float = IDLE_SECONDS) -> Energy:
    """The energy of one query among many, the waiting machine's power left out.

    Args:
        query: runs for so many seconds.
        meter: measures meanwhile.
        steady: seconds of queries.
        idle: seconds in which the loaded process waits.
    """
    query(min(WARM_UP_SECONDS, steady))
    _, idle_watts, _ = _power(meter, lambda: time.sleep(idle))
    ns, watts, seconds = _power(meter, lambda: query(steady))
    if watts <= idle_watts:
        return Energy(None, f"{UNAVAILABLE}: {meter.name} told no more than of the idle machine")
    said = f"ESTIMATE by {meter.name}: {watts:.1f} W over {seconds:.0f} s, of which {idle_watts:.1f} W when idle"
    return Energy(1e3 * (watts - idle_watts) * seconds / len(ns), said)


def _power(meter: Meter, do: Callable[[], T]) -> tuple[T, float, float]:
    """What it gives, its mean watts, and its seconds."""
    begin = time.monotonic()
    done, joules = meter.measured(do)
    seconds = time.monotonic() - begin
    return done, joules / seconds, seconds
