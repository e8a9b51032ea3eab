"""From launches to the row that is reported: each candidate's numbers, and the facts that the verdict is read off."""

from collections.abc import Sequence

import numpy as np

from rescompress.benchmarking import machine, statistics, validity
from rescompress.benchmarking.candidates import Candidates
from rescompress.benchmarking.conditions.disturbance import Disturbance
from rescompress.benchmarking.method import Block, Launch
from rescompress.timing import LatencyRow

Raw = dict[str, list[list[int]]]
_QUERIES_FOR_P90 = 64  # LoadGen's early stopping at confidence 0.99: fewer can't bound a 90th percentile


def latencies(candidates: Candidates, done: Sequence[Launch], rng: np.random.Generator) -> tuple[LatencyRow, ...]:
    """The row of each artifact; the copy of the baseline has none.

    Args:
        candidates: who took part.
        done: what each launch showed.
        rng: draws the bootstrap's resamples.
    """
    times = _times(candidates, done)
    rows = []
    for i, artifact in enumerate(candidates.artifacts[:-1]):
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
                cov=statistics.cov(_blocks(done, i)),
                ratio=ratio.value,
                ratio_low=ratio.low,
                ratio_high=ratio.high,
                ecdf_ms=statistics.ecdf(queries),
                compute_p50_ms=_compute_p50_ms(done, i),
            )
        )
    return tuple(rows)


def noise_floor(candidates: Candidates, done: Sequence[Launch], rng: np.random.Generator) -> float:
    """How far from 1 the ratio of the baseline's two copies may be, at the ends of its interval."""
    times = _times(candidates, done)
    same = statistics.ratio(times[-1], times[0], rng)
    return max(abs(1 - same.low), abs(same.high - 1))


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
    names, first = candidates.names, done[0].outputs
    blocks = {name: _blocks(done, i) for i, name in enumerate(names)}
    return validity.Facts(
        launches=len(done),
        queries={name: sum(block.size for block in of_one) for name, of_one in blocks.items()},
        mismatched=tuple(
            name for i, name in enumerate(names) if any(one.outputs[i].tobytes() != first[i].tobytes() for one in done)
        ),
        unsteady=tuple(name for i, name in enumerate(names) if not all(one.steady[i] for one in done)),
        cov={name: statistics.cov(of_one) for name, of_one in blocks.items()},
        drift={name: statistics.drift(of_one) for name, of_one in blocks.items()},
        noise_floor=noise,
        foreign=load.foreign if load else None,
        stolen=load.stolen if load else None,
        disturbance=disturbance,
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


def _compute_p50_ms(done: Sequence[Launch], i: int) -> float | None:
    """The median by the device's own clock; None where a launch had none."""
    taken = [one.compute_ns[i] for one in done if one.compute_ns and one.compute_ns[i].size]
    return float(np.median(np.concatenate(taken))) / 1e6 if len(taken) == len(done) else None


def _blocks(done: Sequence[Launch], i: int) -> list[Block]:
    """All blocks of one candidate, in the order of measurement."""
    return [block for one in done for block in one.blocks[i]]
