"""One launch: a fresh process per candidate, checked, warmed up and timed in randomly interleaved blocks."""

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rescompress.backends import Images
from rescompress.timing import ColdRow
from rescompress.worker import Array, Worker

Block = NDArray[np.int64]

_CHECKED_IMAGES = 16
_WINDOW_SECONDS = 0.1  # two of them are trtexec's 200 ms of warm-up
_WINDOW_QUERIES = 5  # and its ten iterations
_STEADY = 0.02
_WARM_UP_CAP_SECONDS = 3.0
_LEAD_IN = 0.1


@dataclass(frozen=True)
class Plan:
    """How the candidates are timed."""

    batch: int
    threads: int
    blocks: int
    block_seconds: float


@dataclass(frozen=True)
class Launch:
    """What one launch showed; each tuple has one entry per candidate.

    Attributes:
        blocks: latencies in nanoseconds, one array ``[queries]`` per block, in the order of measurement.
        outputs: what the first images of the ring were answered with, one row an image.
        steady: the warm-up came to rest before its time was up.
        starts: when each block began, in seconds of a clock that all launches of a benchmark share.
        cold: what each process paid before it was warm.
    """

    blocks: tuple[tuple[Block, ...], ...]
    outputs: tuple[Array, ...]
    steady: tuple[bool, ...]
    starts: tuple[tuple[float, ...], ...] = ()
    cold: tuple[ColdRow, ...] = ()


def launch(folders: Sequence[Path], rings: Sequence[Images], plan: Plan, order: random.Random) -> Launch:
    """Start all candidates, check and warm up each, then time them in turns.

    Args:
        folders: one artifact per candidate; the same folder may stand there twice.
        rings: what each candidate's batches are cut from, as it takes images: ``[n, 3, h, w]`` or pixels
            ``[n, h, w, 3]``, ``n >= batch``.
        plan: batch, threads, and how many blocks of which length.
        order: shuffles the candidates anew in each round.

    Raises:
        WorkerCrashed: a runtime died.
    """
    with ExitStack() as stack:
        # all processes load at the same time, and only then is anything timed
        workers = [stack.enter_context(Worker(folder, plan.threads)) for folder in folders]
        for worker in workers:
            worker.ready()
        outputs = tuple(_outputs(worker, ring, plan.batch) for worker, ring in zip(workers, rings, strict=True))
        for worker, ring in zip(workers, rings, strict=True):
            worker.hold(ring)
        steady = tuple(_warm_up(worker, plan.batch) for worker in workers)
        return Launch(_interleaved(workers, plan, order), outputs, steady)


def _outputs(worker: Worker, ring: Images, batch: int) -> Array:
    """Logits of at least 16 images in batches of the size that is timed: a runtime may compute others differently."""
    starts = range(0, min(_CHECKED_IMAGES, len(ring) - batch + 1), batch)
    return np.concatenate([worker.run(ring[start : start + batch]) for start in starts])


def _warm_up(worker: Worker, batch: int) -> bool:
    """Run until the medians of two neighbouring windows agree within 2 %; False if they never did."""
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
    return float(np.median(worker.time(_WINDOW_SECONDS, batch, _WINDOW_QUERIES)))


def _interleaved(workers: Sequence[Worker], plan: Plan, order: random.Random) -> tuple[tuple[Block, ...], ...]:
    """Every round times one block of each candidate, so that slow moments of the machine hit all of them alike."""
    blocks: list[list[Block]] = [[] for _ in workers]
    for _ in range(plan.blocks):
        for i in order.sample(range(len(workers)), len(workers)):
            # the others have just used the caches, and their thread pools may still spin: run a little untimed
            workers[i].time(_LEAD_IN * plan.block_seconds, plan.batch)
            blocks[i].append(np.array(workers[i].time(plan.block_seconds, plan.batch, at_least=2), np.int64))
    return tuple(tuple(of_one) for of_one in blocks)
