"""Several runs or benchmarks side by side: the same artifact in each of them, and what else differs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rescompress.agreement import Proportion
from rescompress.benchmarking import changes, gate
from rescompress.benchmarking.results import Measured
from rescompress.benchmarking.statistics import Estimate
from rescompress.errors import RecipeError
from rescompress.reporting import differences
from rescompress.reporting.differences import Difference
from rescompress.reporting.sources import Source, source
from rescompress.timing import Verdict

SCHEMA = "rescompress.compare/1"


@dataclass(frozen=True)
class Side:
    """One of the things compared.

    Attributes:
        name: of its folder or file.
        title: what it is: the run's name, or ``benchmark``.
        model: what its model was built from; empty of a benchmark alone.
        data: its labelled images; None without any.
        verdict: on its timing; None where nothing was timed.
        reasons: of the verdict, a sentence each.
        settings: how it was timed, in words; empty where nothing was.
        elsewhere: what of its machine is another than the first one's; empty on the same machine.
    """

    name: str
    title: str
    model: str
    data: str | None
    tool_version: str
    fingerprint: str
    verdict: Verdict | None
    reasons: tuple[str, ...]
    settings: str
    elsewhere: str


@dataclass(frozen=True)
class Standing:
    """One artifact in one of the sides, and against the first side that has it.

    Attributes:
        sha256: one digest for all its files.
        points: percentage points of accuracy gained; None where either is not known, or in the first side itself.
        size_ratio: file size over the first one's.
        p50_ms: median latency with its interval; None where it was not timed.
        ratio: of the medians, with an interval made of both; None where either is missing or INVALID, or they were
            timed under different settings.
        different: whether the ratio is more than noise.
        remark: why there is no ratio, or what to think of when reading it; else empty.
    """

    sha256: str
    accuracy: Proportion | None
    points: Estimate | None
    size_bytes: int
    size_ratio: float | None
    macs: int | None
    p50_ms: Estimate | None
    ratio: Estimate | None
    different: bool
    remark: str


@dataclass(frozen=True)
class Lineup:
    """One artifact through all sides; None where a side has none of this label and backend."""

    label: str
    backend: str
    standings: tuple[Standing | None, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs and benchmarks side by side.

    Attributes:
        sides: in the order in which they were named; the first is what the others are compared with.
        lineups: by label and backend.
        environment: facts of machine, releases and settings that are not the same in all sides.
        recipe: values of the recipes that are not the same in all runs.
    """

    schema: str
    sides: tuple[Side, ...]
    lineups: tuple[Lineup, ...]
    environment: tuple[Difference, ...]
    recipe: tuple[Difference, ...]


def compare(paths: Sequence[Path | str]) -> Comparison:
    """Put runs and benchmarks side by side; artifacts of the same label and backend are matched.

    Each is compared with the first. Their intervals were measured apart: a ratio's is made of both medians' own, and a
    difference in accuracy is treated as if both had seen different images.

    Args:
        paths: two or more of: a run's folder, its ``report.json``, what ``rescompress benchmark -o`` wrote.

    Raises:
        RecipeError: there are fewer than two.
        InputRefused: one is missing, broken, or neither a report nor a file of results.
    """
    if len(paths) < 2:
        raise RecipeError("There is nothing to compare with.", "Name two or more runs or files of results.")
    found = _named([source(Path(path)) for path in paths])
    keys = dict.fromkeys((one.label, one.backend) for each in found for one in each.results.artifacts)
    return Comparison(
        schema=SCHEMA,
        sides=tuple(_side(each, found[0]) for each in found),
        lineups=tuple(_lineup(label, backend, found) for label, backend in keys),
        environment=differences.of_environments([each.results for each in found]),
        recipe=differences.of_recipes([each.report.recipe_yaml if each.report else None for each in found]),
    )


def _named(found: Sequence[Source]) -> list[Source]:
    """Every name once."""
    names = [each.name for each in found]
    return [
        each if names.count(each.name) == 1 else Source(f"{each.name} #{place + 1}", each.results, each.report)
        for place, each in enumerate(found)
    ]


def _side(each: Source, first: Source) -> Side:
    row, report = each.results.benchmark, each.report
    return Side(
        name=each.name,
        title=report.name if report else "benchmark",
        model=report.model if report else "",
        data=report.data if report else None,
        tool_version=each.results.tool_version,
        fingerprint=each.results.fingerprint,
        verdict=row.verdict if row else None,
        reasons=row.reasons if row else (),
        settings=differences.settings(row) if row else "",
        elsewhere=changes.other_machine(each.results, first.results),
    )


def _lineup(label: str, backend: str, found: Sequence[Source]) -> Lineup:
    holders = [(each, _artifact(each, label, backend)) for each in found]
    first = next((each, own) for each, own in holders if own is not None)
    standings = (None if own is None else _standing(each, own, *first) for each, own in holders)
    return Lineup(label, backend, tuple(standings))


def _artifact(each: Source, label: str, backend: str) -> Measured | None:
    return next((one for one in each.results.artifacts if (one.label, one.backend) == (label, backend)), None)


def _standing(each: Source, own: Measured, first: Source, theirs: Measured) -> Standing:
    alone, latency = each is first, each.results.latency(own)
    ratio, different, remark = (None, False, "") if alone else _ratio(each, own, first, theirs)
    points = changes.points(own.accuracy, theirs.accuracy) if own.accuracy and theirs.accuracy else None
    return Standing(
        sha256=own.sha256,
        accuracy=own.accuracy,
        points=None if alone else points,
        size_bytes=own.size_bytes,
        size_ratio=None if alone or not theirs.size_bytes else own.size_bytes / theirs.size_bytes,
        macs=own.macs,
        p50_ms=Estimate(latency.p50_ms, latency.p50_low_ms, latency.p50_high_ms) if latency else None,
        ratio=ratio,
        different=different,
        remark=remark,
    )


def _ratio(each: Source, own: Measured, first: Source, theirs: Measured) -> tuple[Estimate | None, bool, str]:
    """The ratio of latencies, whether it is more than noise, and a remark."""
    mine, before = each.results.latency(own), first.results.latency(theirs)
    rows = each.results.benchmark, first.results.benchmark
    if mine is None or before is None or rows[0] is None or rows[1] is None:
        return None, False, "not timed in both"
    if "INVALID" in (rows[0].verdict, rows[1].verdict):
        return None, False, "the timing is INVALID"
    if unlike := [name for name in gate.SETTINGS if getattr(rows[0], name) != getattr(rows[1], name)]:
        return None, False, f"timed with another {' and '.join(unlike)}"
    found = changes.ratio(mine, before)
    real = changes.is_real(found, changes.noise([each.results, first.results]))
    return found, real, "another machine" if changes.other_machine(each.results, first.results) else ""
