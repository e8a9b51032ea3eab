"""How long artifacts take: each in fresh processes, interleaved with the others, judged before it is believed.

``candidates`` says who takes part, ``method`` runs one launch of all of them, ``statistics`` turns nanoseconds into
intervals, ``rows`` writes the numbers down, ``validity`` says whether they can be trusted, and ``machine`` what they
were measured on; ``conditions`` watches it meanwhile.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from rescompress.backends import Images
from rescompress.benchmarking import machine, rows, validity
from rescompress.benchmarking.candidates import Candidates, gathered
from rescompress.benchmarking.conditions import Watch, on_gpu
from rescompress.benchmarking.method import Launch, Plan, launch
from rescompress.benchmarking.rows import Raw
from rescompress.knobs import checked
from rescompress.progress import track
from rescompress.timing import BenchmarkRow

Launcher = Callable[[Candidates, random.Random], Launch]
"""Makes one launch of all candidates. The source of randomness shuffles their order."""


@checked
def benchmark(
    artifacts: Sequence[Path],
    images: Images | Sequence[Images],
    *,
    batch: Annotated[int, Field(ge=1)] = 1,
    threads: Annotated[int, Field(ge=1)] = 1,
    launches: Annotated[int, Field(ge=2)] = 5,
    blocks: Annotated[int, Field(ge=1)] = 10,
    block_seconds: Annotated[float, Field(gt=0)] = 0.05,
    seed: Annotated[int, Field(ge=0)] = 0,
) -> tuple[BenchmarkRow, Raw]:
    """Time artifacts side by side; a second copy of the baseline takes part and shows how much is noise.

    Each launch starts a fresh process per candidate, checks that it still computes what it computed in its first
    launch, warms all of them up, and then measures blocks of queries in random order. No measured query is dropped.
    The method is that of MLPerf LoadGen (queries and percentiles), pyperf (processes, steady warm-up) and Google
    Benchmark (random interleaving).

    Args:
        artifacts: folders of the exported models; the first is the baseline.
        images: as all artifacts take them, or one array for each: ``[n, 3, h, w]`` or pixels ``[n, h, w, 3]``, at best
            64 different ones; fewer are repeated.
        batch: images per query.
        threads: threads that each runtime may use.
        launches: fresh processes per candidate; below 5 the numbers are only indicative.
        blocks: measured blocks per launch and candidate.
        block_seconds: shortest length of one block, in seconds.
        seed: seed of the order of the blocks and of the bootstrap.

    Returns:
        The row (its ``raw`` is empty: the caller names the file), and every measured latency in nanoseconds by
        candidate and launch, in the order of measurement; ``(A/A)`` marks the copy of the baseline.

    Raises:
        RecipeError: a knob is beyond its limits.
        InputRefused: there is no artifact, no image, or an artifact's files were changed.
        WorkerCrashed: a runtime died while it was loaded, checked or timed.
    """
    candidates = gathered(artifacts, images, batch)
    watch = Watch(gpu=any(on_gpu(artifact.manifest) for artifact in candidates.artifacts))
    launcher = _launcher(Plan(batch, threads, blocks, block_seconds), watch)
    order, rng = random.Random(seed), np.random.default_rng(seed)  # noqa: S311  # the order of blocks is no secret
    before = machine.clock()
    with watch:
        done = [launcher(candidates, order) for _ in track(range(launches), "benchmark")]
    load = machine.load(before, machine.clock())
    latencies, noise_floor = rows.latencies(candidates, done, rng), rows.noise_floor(candidates, done, rng)
    verdict, reasons = validity.judge(rows.facts(candidates, done, noise_floor, load, watch.disturbance()))
    row = BenchmarkRow(
        batch, threads, launches, latencies, noise_floor, verdict, reasons, raw="", conditions=watch.conditions()
    )
    return row, rows.raw(candidates, done)


def _launcher(plan: Plan, watch: Watch) -> Launcher:
    """Who makes the launches: blocks in turns, on this machine. Scenarios and remote devices are further launchers."""
    return lambda candidates, order: launch(candidates.folders, candidates.rings, plan, order, watch)
