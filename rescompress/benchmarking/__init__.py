"""How long artifacts take: each in fresh processes, interleaved with the others, judged before it is believed.

``method`` runs one launch of all candidates, ``statistics`` turns nanoseconds into intervals, ``validity`` says
whether they can be trusted, ``machine`` says what they were measured on.
"""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from rescompress.artifact import Artifact, open_artifact
from rescompress.backends import Images
from rescompress.benchmarking import machine, statistics, validity
from rescompress.benchmarking.method import Launch, Plan, launch
from rescompress.errors import InputRefused
from rescompress.knobs import checked
from rescompress.progress import track
from rescompress.spec import BenchmarkRow, LatencyRow

Raw = dict[str, list[list[int]]]
_DISTINCT_BATCHES = 64
_QUERIES_FOR_P90 = 64  # LoadGen's early stopping at confidence 0.99: fewer can't bound a 90th percentile


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
    if not artifacts:
        raise InputRefused("There is no artifact to time.", "Name at least one exported folder.")
    opened = [open_artifact(folder) for folder in artifacts]
    plan = Plan(batch, threads, blocks, block_seconds)
    given = [images] * len(artifacts) if isinstance(images, np.ndarray) else list(images)
    rings, order = [_ring(one, batch) for one in (*given, given[0])], random.Random(seed)  # noqa: S311  # the order of blocks is no secret
    folders = (*artifacts, artifacts[0])
    before = machine.clock()
    done = [launch(folders, rings, plan, order) for _ in track(range(launches), "benchmark")]
    load = machine.load(before, machine.clock())
    names = _names(opened)
    latencies, noise_floor = _latencies(opened, done, np.random.default_rng(seed))
    verdict, reasons = validity.judge(_facts(names, done, noise_floor, load))
    row = BenchmarkRow(batch, threads, launches, latencies, noise_floor, verdict, reasons, raw="")
    raw = {name: [np.concatenate(one.blocks[i]).tolist() for one in done] for i, name in enumerate(names)}
    return row, raw


def _ring(images: Images, batch: int) -> Images:
    """So many images that a batch can start at 64 places, the given ones over and over."""
    if images.ndim != 4 or 0 in images.shape:
        raise InputRefused(f"Images of shape {images.shape} can't be timed.", "Give at least one image [n, 3, h, w].")
    return np.resize(images, (_DISTINCT_BATCHES + batch - 1, *images.shape[1:]))


def _names(opened: Sequence[Artifact]) -> tuple[str, ...]:
    """One unique name per candidate, the copy of the baseline last."""
    seen: Counter[str] = Counter()
    names = []
    for artifact in opened:
        name = f"{artifact.manifest.label} {artifact.manifest.backend}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return (*names, f"{names[0]} (A/A)")


def _latencies(
    opened: Sequence[Artifact], done: Sequence[Launch], rng: np.random.Generator
) -> tuple[tuple[LatencyRow, ...], float]:
    """The row of each artifact, and the noise floor that the copy of the baseline shows."""
    times = [[np.concatenate(one.blocks[i]) for one in done] for i in range(len(opened) + 1)]
    rows = []
    for i, artifact in enumerate(opened):
        p50, ratio = statistics.p50(times[i], rng), statistics.ratio(times[i], times[0], rng)
        queries = np.concatenate(times[i]) / 1e6
        rows.append(
            LatencyRow(
                label=artifact.manifest.label,
                backend=artifact.manifest.backend,
                queries=queries.size,
                p50_ms=p50.value / 1e6,
                p50_low_ms=p50.low / 1e6,
                p50_high_ms=p50.high / 1e6,
                p90_ms=float(np.quantile(queries, 0.9)) if queries.size >= _QUERIES_FOR_P90 else None,
                min_ms=float(queries.min()),
                cov=statistics.cov([block for one in done for block in one.blocks[i]]),
                ratio=ratio.value,
                ratio_low=ratio.low,
                ratio_high=ratio.high,
                ecdf_ms=statistics.ecdf(queries),
            )
        )
    same = statistics.ratio(times[-1], times[0], rng)
    return tuple(rows), max(abs(1 - same.low), abs(same.high - 1))


def _facts(
    names: Sequence[str], done: Sequence[Launch], noise_floor: float, load: machine.Load | None
) -> validity.Facts:
    """What the verdict is read off."""
    first = done[0].outputs
    blocks = {name: [block for one in done for block in one.blocks[i]] for i, name in enumerate(names)}
    return validity.Facts(
        launches=len(done),
        queries={name: sum(block.size for block in of_one) for name, of_one in blocks.items()},
        mismatched=tuple(name for i, name in enumerate(names) if any(one.outputs[i] != first[i] for one in done)),
        unsteady=tuple(name for i, name in enumerate(names) if not all(one.steady[i] for one in done)),
        cov={name: statistics.cov(of_one) for name, of_one in blocks.items()},
        drift={name: statistics.drift(of_one) for name, of_one in blocks.items()},
        noise_floor=noise_floor,
        foreign=load.foreign if load else None,
        stolen=load.stolen if load else None,
    )
