"""From launches to the row that is reported: each candidate's numbers, and the facts that the verdict is read off."""

from collections.abc import Sequence

import numpy as np

from rescompress.benchmarking import machine, outputs, percentiles, scenarios, statistics, validity
from rescompress.benchmarking.candidates import Candidates
from rescompress.benchmarking.conditions import on_gpu
from rescompress.benchmarking.conditions.disturbance import Disturbance
from rescompress.benchmarking.method import Block, Launch
from rescompress.benchmarking.statistics import Estimate
from rescompress.timing import ColdRow, LatencyRow

Raw = dict[str, list[list[int]]]
_SLOW = 3


def latencies(
    candidates: Candidates, done: Sequence[Launch], compared: Sequence[Estimate], rng: np.random.Generator
) -> tuple[LatencyRow, ...]:
    """The row of each artifact; the copy of the baseline has none.

    Args:
        candidates: who took part.
        done: what each launch showed.
        compared: each candidate's ratio to the baseline.
        rng: draws the bootstrap's resamples.
    """
    plain = [_latency(candidates, done, i, ratio, rng) for i, ratio in enumerate(compared[:-1])]
    return scenarios.told(plain, done[0].traffic, [one.answered for one in done], rng)


def ratios(candidates: Candidates, done: Sequence[Launch], rng: np.random.Generator) -> tuple[Estimate, ...]:
    """How many times the baseline's latency each candidate's is, the baseline's own and its copy's included."""
    return tuple(_ratio(done, i, rng) for i in range(len(candidates.names)))


def noise_floor(same: Estimate) -> float:
    """How far from 1 the ratio of the baseline's two copies may be, at the ends of its interval."""
    return max(abs(1 - same.low), abs(same.high - 1))


def _ratio(done: Sequence[Launch], i: int, rng: np.random.Generator) -> Estimate:
    """Round by round where the candidates took turns, else launch by launch, or as LoadGen's scenario has it."""
    asked = scenarios.ratio(done[0].traffic, [one.answered for one in done], i, rng)
    if asked is not None:
        return asked
    if all(one.paired for one in done):
        return statistics.paired([one.blocks[i] for one in done], [one.blocks[0] for one in done], rng)
    times, baseline = ([np.concatenate(one.blocks[k]) for one in done] for k in (i, 0))
    return statistics.ratio(times, baseline, rng)


def _latency(
    candidates: Candidates, done: Sequence[Launch], i: int, ratio: Estimate, rng: np.random.Generator
) -> LatencyRow:
    manifest, blocks = candidates.artifacts[i].manifest, _blocks(done, i)
    p50 = statistics.p50([np.concatenate(one.blocks[i]) for one in done], rng)
    queries = np.concatenate(blocks) / 1e6
    p90, p95, p99 = (percentiles.upper_bound(queries, share) for share in (0.9, 0.95, 0.99))
    return LatencyRow(
        label=manifest.label,
        backend=manifest.backend,
        queries=queries.size,
        p50_ms=p50.value / 1e6,
        p50_low_ms=p50.low / 1e6,
        p50_high_ms=p50.high / 1e6,
        p90_ms=p90,
        min_ms=float(queries.min()),
        cov=statistics.cov(blocks),
        ratio=ratio.value,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        ecdf_ms=statistics.ecdf(queries),
        p95_ms=p95,
        p99_ms=p99,
        max_ms=float(queries.max()),
        mad_ms=statistics.mad(queries),
        slow_queries=int((queries > _SLOW * np.median(queries)).sum()),
        blocks=_series(done, i),
        images_per_s=candidates.batch * queries.size / float(queries.sum()) * 1e3,
        compute_p50_ms=_compute_p50_ms(done, i),
        cold=_cold([one.cold[i] for one in done if one.cold]),
    )


def facts(
    candidates: Candidates,
    done: Sequence[Launch],
    noise: float,
    load: machine.Load | None,
    disturbance: Disturbance | None = None,
) -> validity.Facts:
    """What the verdict is read off.

    Args:
        candidates: who took part.
        done: what each launch showed.
        noise: the noise floor.
        load: what else the machine did.
        disturbance: what happened to it.
    """
    names, found = candidates.names, outputs.compared(candidates, done)
    blocks = {name: _blocks(done, i) for i, name in enumerate(names)}
    return validity.Facts(
        launches=len(done),
        queries={name: sum(block.size for block in of_one) for name, of_one in blocks.items()},
        mismatched=found.changed,
        unsteady=tuple(name for i, name in enumerate(names) if not all(one.steady[i] for one in done)),
        cov={name: statistics.cov(of_one) for name, of_one in blocks.items()},
        drift={name: statistics.drift(of_one) for name, of_one in blocks.items()},
        noise_floor=noise,
        foreign=load.foreign if load else None,
        stolen=load.stolen if load else None,
        disturbance=disturbance,
        departed=found.departed,
        unverified=found.unverified,
        seconds={name: _measured_s(done, i) for i, name in enumerate(names)},
        gpu=tuple(name for name, one in zip(names, candidates.artifacts, strict=True) if on_gpu(one.manifest)),
        objections=(
            *scenarios.objections(names, done[0].traffic, [one.answered for one in done]),
            *done[0].caveats,
        ),
    )


def raw(candidates: Candidates, done: Sequence[Launch]) -> Raw:
    """Every measured latency in nanoseconds, by candidate and launch, in the order of measurement."""
    return {
        name: [times.tolist() for times in of_one]
        for name, of_one in zip(candidates.names, _times(candidates, done), strict=True)
    }


def _times(candidates: Candidates, done: Sequence[Launch]) -> list[list[Block]]:
    """By candidate and launch, all latencies ``[queries]``."""
    return [[np.concatenate(one.blocks[i]) for one in done] for i in range(len(candidates.names))]


def _measured_s(done: Sequence[Launch], i: int) -> float:
    """How long one candidate was measured: until LoadGen's last answer, or as long as its queries took."""
    asked = sum(one.answered[i].seconds for one in done if one.answered)
    return asked or sum(float(block.sum()) for block in _blocks(done, i)) / 1e9


def _compute_p50_ms(done: Sequence[Launch], i: int) -> float | None:
    """The median by the device's own clock; None where a launch had none."""
    taken = [one.compute_ns[i] for one in done if one.compute_ns and one.compute_ns[i].size]
    return float(np.median(np.concatenate(taken))) / 1e6 if len(taken) == len(done) else None


def _series(done: Sequence[Launch], i: int) -> tuple[tuple[float, float], ...]:
    """When each block of one candidate began, in seconds since the first of all, and its median in milliseconds."""
    begun = [start for one in done for of_one in one.starts for start in of_one]
    starts = [start for one in done if one.starts for start in one.starts[i]]
    medians = [float(np.median(block)) / 1e6 for one in done if one.starts for block in one.blocks[i]]
    return tuple((start - min(begun), median) for start, median in zip(starts, medians, strict=True))


def _cold(launches: Sequence[ColdRow]) -> ColdRow:
    """Medians of what the launches paid; None where one of them couldn't tell."""
    return ColdRow(
        load_ms=_median([one.load_ms for one in launches]),
        first_ms=_median([one.first_ms for one in launches]),
        peak_rss_bytes=_whole(_median([one.peak_rss_bytes for one in launches])),
        peak_device_bytes=_whole(_median([one.peak_device_bytes for one in launches])),
    )


def _median(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return float(np.median(told)) if told and len(told) == len(values) else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _blocks(done: Sequence[Launch], i: int) -> list[Block]:
    """All blocks of one candidate, in the order of measurement."""
    return [block for one in done for block in one.blocks[i]]
