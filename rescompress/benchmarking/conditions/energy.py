"""What a query costs in energy: an estimate by the machine's own counter, less what the waiting machine takes.

Such counters aren't wall meters: some sample a quarter of the time (arXiv:2312.02741). So nothing is said of less than
ten steady seconds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from rescompress.backends import Images
from rescompress.benchmarking.conditions import meters
from rescompress.benchmarking.conditions.files import Files
from rescompress.benchmarking.conditions.meters import Meter
from rescompress.benchmarking.conditions.nvml import Gpu
from rescompress.cpu import UNAVAILABLE
from rescompress.progress import track
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


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        folder: the artifact's.
        ring: images that batches are cut from.
        on_gpu: whether it runs there.
    """

    folder: Path
    ring: Images
    on_gpu: bool


def measured(
    subjects: Sequence[Subject], batch: int, threads: int, gpu: Gpu | None = None, files: Files | None = None
) -> tuple[Energy, ...]:
    """The energy of each artifact, one after the other, in fresh processes.

    Args:
        subjects: one per artifact.
        batch: images per query.
        threads: of each runtime.
        gpu: where some run, if it can be asked.
        files: the system's.

    Raises:
        WorkerCrashed: a runtime died.
    """
    costs = []
    for subject in track(subjects, "energy"):
        meter, hindrance = meters.found(files or Files(), gpu, subject.on_gpu)
        if meter is None:
            costs.append(Energy(None, f"{UNAVAILABLE}: {hindrance}"))
            continue
        with Worker(subject.folder, threads) as worker:
            worker.ready()
            worker.hold(subject.ring)
            costs.append(of_queries(partial(_ask, worker, batch), meter))
    return tuple(costs)


def _ask(worker: Worker, batch: int, seconds: float) -> list[int]:
    return worker.time(seconds, batch)


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


def in_words(costs: Sequence[Energy]) -> str:
    """How all artifacts were measured, each different sentence once."""
    return "; ".join(dict.fromkeys(cost.said for cost in costs))
