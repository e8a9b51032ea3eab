"""One launch: a fresh process per candidate, checked, warmed up and timed in randomly interleaved blocks."""

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rescompress.backends import Images
from rescompress.benchmarking import scenarios
from rescompress.benchmarking.conditions import Watch
from rescompress.benchmarking.statistics import quiet
from rescompress.loadgen import Answered, Traffic
from rescompress.timing import ColdRow
from rescompress.worker import Array, Worker

Block = NDArray[np.int64]

_CHECKED_IMAGES = 16
_WINDOW_SECONDS, _WINDOW_QUERIES = 0.1, 5  # of each half of the warm-up's last window
_STEADY = 0.02
_WARM_UP_CAP_SECONDS = 30.0
_LEAD_IN = 0.1
_FEWEST_ROUNDS = 10


@dataclass(frozen=True)
class Plan:
    """How the candidates are timed; ``traffic`` is what LoadGen asks them, None for blocks in turns."""

    batch: int
    threads: int
    blocks: int
    block_seconds: float
    traffic: Traffic | None = None

    def in_launch(self, number: int) -> "Plan":
        """The same for a launch of this number: LoadGen's queries arrive at other times in each."""
        return replace(self, traffic=self.traffic and replace(self.traffic, launch=number))


@dataclass(frozen=True)
class Launch:
    """What one launch showed; each tuple has one entry per candidate.

    Attributes:
        blocks: latencies in nanoseconds, one array ``[queries]`` per block, in the order of measurement.
        outputs: what the first images of the ring were answered with, one row an image.
        steady: the warm-up came to rest before its time was up.
        starts: when each block began, in seconds of a clock that all launches of a benchmark share.
        cold: what each process paid before it was warm.
        compute_ns: the same queries by the device's own clock, one array ``[queries]`` per candidate; empty where it
            has none.
        paired: all candidates took turns, so that blocks at the same place ran in the same round.
        traffic: what LoadGen asked; None where it didn't.
        answered: what LoadGen saw.
        caveats: why the numbers are indicative at best, a sentence each.
    """

    blocks: tuple[tuple[Block, ...], ...]
    outputs: tuple[Array, ...]
    steady: tuple[bool, ...]
    starts: tuple[tuple[float, ...], ...] = ()
    cold: tuple[ColdRow, ...] = ()
    compute_ns: tuple[Block, ...] = ()
    paired: bool = True
    traffic: Traffic | None = None
    answered: tuple[Answered, ...] = ()
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Taken:
    """What was measured of one candidate."""

    blocks: list[Block] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    compute_ns: list[int] = field(default_factory=list)
    answered: Answered | None = None

    @property
    def seconds(self) -> float:
        """How long all blocks took together."""
        return sum(float(block.sum()) for block in self.blocks) / 1e9


def launch(
    folders: Sequence[Path], rings: Sequence[Images], plan: Plan, order: random.Random, watch: Watch | None = None
) -> Launch:
    """Start all candidates, check and warm up each, then time them in turns.

    Args:
        folders: one artifact per candidate; the same folder may stand there twice.
        rings: what each candidate's batches are cut from, as it takes images: ``[n, 3, h, w]`` or pixels
            ``[n, h, w, 3]``, ``n >= batch``.
        plan: batch, threads, and how many blocks of which length.
        order: shuffles the candidates anew in each round.
        watch: looks at the machine meanwhile.

    Raises:
        WorkerCrashed: a runtime died.
    """
    with ExitStack() as stack:
        started = [_start(stack, folder, ring, plan) for folder, ring in zip(folders, rings, strict=True)]
        workers = [worker for worker, _, _ in started]
        for worker, ring in zip(workers, rings, strict=True):
            worker.hold(ring)
        steady = tuple(_warm_up(worker, plan.batch) for worker in workers)
        with watch.timed([worker.pid for worker in workers]) if watch else nullcontext():
            taken = _asked(workers, plan, plan.traffic, order) if plan.traffic else _interleaved(workers, plan, order)
        on_device = watch.device_bytes[-1] if watch else (None,) * len(workers)
    return Launch(
        blocks=tuple(tuple(of_one.blocks) for of_one in taken),
        outputs=tuple(outputs for _, outputs, _ in started),
        steady=steady,
        starts=tuple(tuple(of_one.starts) for of_one in taken),
        cold=tuple(
            replace(cold, peak_device_bytes=taken) for (_, _, cold), taken in zip(started, on_device, strict=True)
        ),
        compute_ns=tuple(np.array(of_one.compute_ns, np.int64) for of_one in taken),
        paired=plan.traffic is None,
        traffic=plan.traffic,
        answered=tuple(of_one.answered for of_one in taken if of_one.answered),
    )


def _start(stack: ExitStack, folder: Path, ring: Images, plan: Plan) -> tuple[Worker, Array, ColdRow]:
    """Load one candidate while no other does anything, so that its cold start is its own, and let it answer once."""
    worker = stack.enter_context(Worker(folder, plan.threads))
    worker.ready()
    outputs = _outputs(worker, ring, plan.batch)
    return worker, outputs, worker.cold()


def _outputs(worker: Worker, ring: Images, batch: int) -> Array:
    """Logits of at least 16 images in batches of the size that is timed: a runtime may compute others differently."""
    starts = range(0, min(_CHECKED_IMAGES, len(ring) - batch + 1), batch)
    return np.concatenate([worker.run(ring[start : start + batch]) for start in starts])


def _warm_up(worker: Worker, batch: int) -> bool:
    """Run until two neighbouring windows agree within 2 %; False if they never did in 30 s.

    The two are at least 200 ms and ten queries long, as trtexec warms up; that they must agree is pyperf's idea. They
    are compared by their undisturbed queries: warming up moves all, other programs only some. Where five other programs
    wanted two cores, that ended it in every second window, and the median in every sixth.
    """
    end = time.monotonic() + _WARM_UP_CAP_SECONDS
    previous = _window(worker, batch)
    while True:
        current = _window(worker, batch)
        if abs(current / previous - 1) <= _STEADY:
            return True
        if time.monotonic() > end:
            return False
        previous = current


def _window(worker: Worker, batch: int) -> float:
    return quiet([np.array(worker.time(_WINDOW_SECONDS, batch, _WINDOW_QUERIES), np.int64)])


def _interleaved(workers: Sequence[Worker], plan: Plan, order: random.Random) -> list[_Taken]:
    """Every round times one block of each candidate, so that slow moments of the machine hit all of them alike."""
    taken = [_Taken() for _ in workers]
    for turn in range(plan.blocks):
        if turn >= _FEWEST_ROUNDS and all(of_one.seconds >= plan.blocks * plan.block_seconds for of_one in taken):
            break  # a block of a slow model takes longer
        for i in order.sample(range(len(workers)), len(workers)):
            # the others have just used the caches, and their thread pools may still spin: run a little untimed
            workers[i].time(_LEAD_IN * plan.block_seconds, plan.batch)
            taken[i].starts.append(time.monotonic())
            taken[i].blocks.append(np.array(workers[i].time(plan.block_seconds, plan.batch, at_least=2), np.int64))
            taken[i].compute_ns.extend(workers[i].compute_ns)
    return taken


def _asked(workers: Sequence[Worker], plan: Plan, traffic: Traffic, order: random.Random) -> list[_Taken]:
    """LoadGen asks one candidate after the other, in random order."""
    taken = [_Taken() for _ in workers]
    for i in order.sample(range(len(workers)), len(workers)):
        workers[i].time(_LEAD_IN * plan.block_seconds, plan.batch)
        run = workers[i].loadgen(traffic)
        taken[i] = _Taken(*scenarios.blocks(run, traffic), answered=run)
    return taken
