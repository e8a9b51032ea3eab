"""Where the time of each artifact goes, and how near it comes to what the machine can do; apart from what is timed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rescompress.benchmarking import peaks
from rescompress.benchmarking.candidates import Candidates
from rescompress.progress import track
from rescompress.timing import BenchmarkRow, ProfileRow
from rescompress.worker import Worker

QUERY_OF_A_BATCH = ("interleaved", "single-stream", "multi-stream")
"""Scenarios in which a query is one batch and waits for no other."""


@dataclass(frozen=True)
class Looked:
    """What one artifact's runtime told.

    Attributes:
        profile: None where it tells no times.
        precisions: of each layer, by name.
    """

    profile: ProfileRow | None
    precisions: dict[str, str]


def explained(row: BenchmarkRow, candidates: Candidates) -> BenchmarkRow:
    """The row with profiles, and with roofs where queries are batches; each artifact is loaded in one more process.

    Args:
        row: of a benchmark that is over, so that nothing here disturbs what was timed.
        candidates: that took part.

    Raises:
        WorkerCrashed: a runtime died while it was profiled, or the machine's peaks couldn't be measured.
    """
    told = looked(candidates, row.threads)
    profiles = tuple(one.profile for one in told if one.profile)
    if row.scenario not in QUERY_OF_A_BATCH:
        return replace(row, profiles=profiles)
    (best,) = [peaks.measured(row.threads) for _ in track(range(1), "peaks")]
    precisions = [one.precisions for one in told]
    roofs = peaks.roofs(candidates.artifacts[:-1], row.latencies, precisions, row.batch, best)
    return replace(row, profiles=profiles, peaks=best, roofs=roofs)


def looked(candidates: Candidates, threads: int) -> Sequence[Looked]:
    """Profile and audit each artifact in a fresh process; the baseline's copy is left out.

    Args:
        candidates: that took part.
        threads: as they were timed with.

    Raises:
        WorkerCrashed: a runtime died.
    """
    found = []
    pairs = list(zip(candidates.artifacts, candidates.rings, strict=True))[:-1]
    for artifact, ring in track(pairs, "profile"):
        with Worker(artifact.folder, threads) as worker:
            profile = worker.profile(ring[: candidates.batch])
            precisions = {layer["layer"]: layer["precision"] for layer in worker.audit()["layers"]}
        found.append(Looked(profile, precisions))
    return found
