"""How long artifacts take: each in fresh processes, interleaved with the others, judged before it is believed.

``candidates`` says who takes part, ``here`` and ``remote`` are where, ``method`` runs one launch of all of them, and
``scenarios`` lets MLPerf LoadGen ask. ``statistics`` turns nanoseconds into intervals, ``rows`` writes the numbers
down, ``validity`` says whether they can be trusted, and ``machine`` what they were measured on; ``conditions`` watches
it meanwhile. ``profiles`` says where the time goes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from rescompress.backends import Images
from rescompress.benchmarking import length, profiles, remote, rows, scenarios, validity
from rescompress.benchmarking.candidates import Candidates, gathered
from rescompress.benchmarking.conditions import energy as joules
from rescompress.benchmarking.here import Here, Place
from rescompress.benchmarking.method import Launch, Plan
from rescompress.benchmarking.rows import Raw
from rescompress.knobs import agreeing, checked
from rescompress.progress import track
from rescompress.timing import BenchmarkRow, Scenario


def _agree(knobs: Mapping[str, Any]) -> None:
    scenarios.agree(knobs)
    remote.agree(knobs)


@checked
@agreeing(_agree)
def benchmark(
    artifacts: Sequence[Path],
    images: Images | Sequence[Images],
    *,
    batch: Annotated[int, Field(ge=1)] = 1,
    threads: Annotated[int, Field(ge=1)] = 1,
    launches: Annotated[int, Field(ge=2)] = 5,
    max_launches: Annotated[int, Field(ge=2)] = 20,
    blocks: Annotated[int, Field(ge=1)] = 60,
    block_seconds: Annotated[float, Field(gt=0)] = 0.01,
    seed: Annotated[int, Field(ge=0)] = 0,
    scenario: Scenario = "interleaved",
    qps: Annotated[float, Field(gt=0)] | None = None,
    slo_ms: Annotated[float, Field(gt=0)] | None = None,
    samples_per_query: Annotated[int, Field(ge=1)] = scenarios.SAMPLES_PER_QUERY,
    profile: bool | None = None,
    energy: bool = False,
    device: str = "",
) -> tuple[BenchmarkRow, Raw]:
    """Time artifacts side by side; a second copy of the baseline takes part and shows how much is noise.

    Each launch starts a fresh process per candidate, checks that it computes what was verified and what it computed in
    its first launch, warms all of them up, and then measures short blocks of queries in random order. Ratios are those
    of blocks in the same round, so that slow phases of the machine cancel out. No measured query is dropped.
    The method is that of MLPerf LoadGen (queries and percentiles), pyperf (processes, steady warm-up) and Google
    Benchmark (random interleaving).

    Args:
        artifacts: folders of the exported models; the first is the baseline.
        images: as all artifacts take them, or one array for each: ``[n, 3, h, w]`` or pixels ``[n, h, w, 3]``, at best
            64 different ones; fewer are repeated.
        batch: images per query.
        threads: threads that each runtime may use.
        launches: fresh processes per candidate; below 5 the numbers are only indicative.
        max_launches: where 5 launches or more are too few to tell a difference of 5 % on a noisy machine, there are
            more, up to so many.
        blocks: measured blocks per launch and candidate; at least 10 where a single query takes longer than a block.
        block_seconds: shortest length of one block, in seconds.
        seed: seed of the order of the blocks and of the bootstrap.
        scenario: who asks: our own blocks, one query after the other and the candidates in turns; or MLPerf LoadGen
            in one of its scenarios, one run of at least ``blocks * block_seconds`` per launch and candidate. Even if
            that is MLPerf's own 600 s, it is no MLPerf result.
        qps: queries that arrive per second in the server scenario, at random times.
        slo_ms: latency that 99 % of them must keep, in milliseconds; MLPerf's 15 for ResNet-50 if not given.
        samples_per_query: images of a query in the multi-stream scenario.
        profile: say afterwards which layers take the time, as each runtime's own profiler tells, and what share of this
            machine's peaks the artifacts reach; left out, only a run does, and only on this machine.
        energy: say afterwards how many millijoules a query costs, an estimate by this machine's own counter where it
            has one, the idle machine left out; a quarter of a minute for each artifact.
        device: time on another machine, ``ssh://user@host[:port]`` or ``adb://serial``, by the system's own ssh or adb;
            empty for this machine. Nothing needs to be installed there but Python with the runtime, or the vendor's
            tool; files stay in its ``~/.cache/rescompress``. The same command goes on with what was begun.

    Returns:
        The row (its ``raw`` is empty: the caller names the file), and every measured latency in nanoseconds by
        candidate and launch, in the order of measurement; ``(A/A)`` marks the copy of the baseline.

    Raises:
        RecipeError: a knob is beyond its limits, or says nothing in the scenario.
        BackendMissing: the scenario needs LoadGen, which is not installed; or the device can't be reached, or lacks
            the runtime.
        InputRefused: there is no artifact, no image, or an artifact's files were changed.
        WorkerCrashed: a runtime died while it was loaded, checked or timed.
        RunLocked: somebody else times on the device.
        ResourceExhausted: the connection to the device didn't come back.
    """
    traffic = scenarios.traffic(
        scenario,
        launches=launches,
        seconds=blocks * block_seconds,
        batch=batch,
        samples_per_query=samples_per_query,
        qps=qps,
        slo_ms=slo_ms,
    )
    plan = Plan(traffic.batch if traffic else batch, threads, blocks, block_seconds, traffic)
    candidates = gathered(artifacts, images, plan.batch)
    most = launches if traffic else length.most(launches, max_launches)
    place = remote.opened(device, candidates, plan, most, seed) if device else Here(candidates, plan, seed)
    with place as there:
        done = _launched(there.launch, candidates, launches, most)
    row = _judged(candidates, done, plan, there, seed)
    row = replace(row, scenario=scenario, target=scenarios.target(traffic))
    row = joules.told(row, candidates) if energy else row
    return profiles.explained(row, candidates) if profile else row, rows.raw(candidates, done)


def _launched(launcher: Callable[[], Launch], candidates: Candidates, launches: int, most: int) -> list[Launch]:
    """As many launches as it takes, within limits; see ``length``."""

    def enough() -> bool:
        return length.enough(rows.ratios(candidates, done, np.random.default_rng(0)))

    done = [launcher() for _ in track(range(launches), "benchmark")]
    if launches < most and not enough():
        for _ in track(range(launches, most), "benchmark, longer on a noisy machine"):
            done.append(launcher())
            if enough():
                break
    return done


def _judged(candidates: Candidates, done: Sequence[Launch], plan: Plan, place: Place, seed: int) -> BenchmarkRow:
    """The numbers and the verdict on them."""
    rng = np.random.default_rng(seed)
    ratios = rows.ratios(candidates, done, rng)
    noise_floor = rows.noise_floor(ratios[-1])
    latencies = rows.latencies(candidates, done, ratios, rng)
    verdict, reasons = validity.judge(rows.facts(candidates, done, noise_floor, place.load, place.disturbance()))
    return BenchmarkRow(
        batch=plan.batch,
        threads=plan.threads,
        launches=len(done),
        latencies=latencies,
        noise_floor=noise_floor,
        verdict=verdict,
        reasons=reasons,
        raw="",
        device=place.device,
        conditions=place.conditions(),
    )
