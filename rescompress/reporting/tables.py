"""The tables of a report as text in cells, so that HTML and Markdown say the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rescompress.agreement import ClassDrop
from rescompress.reporting import wording
from rescompress.reporting.layers import Layer, Layers
from rescompress.reporting.verdict import Candidate, candidates, no_difference, rung
from rescompress.spec import BenchmarkRow, Cost, LatencyRow, Proportion, RunReport, StageRow

Kind = Literal["", "missing", "void", "prose"]


@dataclass(frozen=True)
class Cell:
    """What one cell says, and small below; whether it is missing, not to be trusted, or running text."""

    text: str
    detail: str = ""
    kind: Kind = ""


@dataclass(frozen=True)
class Table:
    """Columns and rows of cells; the first column names the row.

    Attributes:
        starts: the rows that a line parts from those above.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    starts: frozenset[int] = frozenset()


def result_table(report: RunReport) -> Table:
    """A row per artifact, backend by backend, each from its float baseline to its last stage."""
    rows = candidates(report)
    costs = {stage.label: stage.cost for stage in report.stages}
    first: dict[str, Candidate] = {}
    for row in rows:
        first.setdefault(row.artifact.backend, row)
    columns = ("Artifact", "Accuracy", "Size", "MACs", "p50", "p90", "Latency ratio", "Rung")
    shown = tuple(_result_row(report, row, first[row.artifact.backend], costs) for row in rows)
    return Table(columns, shown, starts([row.artifact.backend for row in rows]))


def starts(backends: Sequence[str]) -> frozenset[int]:
    """The rows at which another backend begins."""
    return frozenset(place for place in range(1, len(backends)) if backends[place] != backends[place - 1])


def stage_table(report: RunReport) -> Table:
    """A row per stage: what was asked for, and what came of it in eager PyTorch."""
    columns = ("Stage", "Accuracy", "Parameters", "MACs", "Weights", "Knobs")
    return Table(columns, tuple(map(_stage_row, report.stages)))


def verification_table(report: RunReport) -> Table:
    """A row per artifact: how close it is to eager PyTorch and what precision it really has."""
    columns = ("Artifact", "Integers", "Verified", "Inputs", "Max-abs", "SQNR", "Top-1 agreement", "Worst class")
    shown = candidates(report)
    return Table(
        (*columns, "INT8 convs", "INT8 adds", "Ops of the optimized graph"),
        tuple(map(_verification_row, shown)),
        starts([row.artifact.backend for row in shown]),
    )


def layer_table(found: Layers) -> Table:
    """A row per layer, in the order of the graph; a column that nobody filled is left out."""
    optional = (("Time", found.timed_by), ("SQNR", found.sensitivity))
    columns = ("Layer", "Precision", *(name for name, known in optional if known))
    return Table(columns, tuple(_layer_row(found, row) for row in found.rows))


def file_table(report: RunReport) -> Table:
    """Every file that the run wrote, with its digest."""
    stages = [(Cell(row.label), Cell(row.checkpoint), Cell(row.sha256)) for row in report.stages]
    artifacts = [(Cell(row.name), Cell(row.artifact.folder), Cell(row.artifact.sha256)) for row in candidates(report)]
    return Table(("Name", "Checkpoint or artifact", "SHA-256"), tuple(stages + artifacts))


def notes(report: RunReport) -> tuple[str, ...]:
    """What stages and artifacts had to say, a sentence each; one that names its stage doesn't name it twice."""
    said = [
        f"{stage.label}: {note.removeprefix(f'{stage.stage}: ')}" for stage in report.stages for note in stage.notes
    ]
    for row in candidates(report):
        artifact = row.artifact
        found = (artifact.hindrance, *artifact.notes, *artifact.precision.notes, *artifact.verification.evidence.notes)
        said += [f"{row.artifact.label} ({row.artifact.backend}): {note}" for note in found if note]
    return tuple(said)


def _result_row(
    report: RunReport, candidate: Candidate, first: Candidate, costs: Mapping[str, Cost]
) -> tuple[Cell, ...]:
    artifact, cost, before = candidate.artifact, costs.get(candidate.artifact.label), costs.get(first.artifact.label)
    macs = Cell(wording.count(cost.macs), _against(cost.macs, before.macs if before else 0)) if cost else missing()
    return (
        Cell(candidate.stage, artifact.backend),
        _accuracy(artifact.verification.accuracy),
        Cell(wording.size(artifact.size_bytes), _against(artifact.size_bytes, first.artifact.size_bytes)),
        macs,
        *latency_cells(candidate.latency, report.benchmark),
        Cell(rung(candidate), wording.RUNGS[rung(candidate)]),
    )


def _against(value: int, before: int) -> str:
    """How many times the baseline's; nothing for itself."""
    return f"{wording.real(value / before, 2)}{wording.TIMES}" if before and value != before else ""


def _stage_row(stage: StageRow) -> tuple[Cell, ...]:
    knobs = ", ".join(f"{name}={wording.knob(value)}" for name, value in stage.knobs.items())
    return (
        Cell(stage.label),
        _accuracy(stage.accuracy),
        Cell(wording.count(stage.cost.params)),
        Cell(wording.count(stage.cost.macs)),
        Cell(wording.size(stage.cost.weight_bytes)),
        Cell(knobs or "none", kind="prose"),
    )


def latency_cells(row: LatencyRow | None, timing: BenchmarkRow | None) -> tuple[Cell, Cell, Cell]:
    """p50 with its interval, p90, and the ratio with its interval."""
    if row is None or timing is None:
        return (missing("not timed"),) * 3
    kind: Kind = "void" if timing.verdict == "INVALID" else ""
    middle = wording.interval(row.p50_ms, row.p50_low_ms, row.p50_high_ms)
    p50 = Cell(f"{wording.real(row.p50_ms)} ms", middle, kind)
    p90 = missing("too few queries") if row.p90_ms is None else Cell(f"{wording.real(row.p90_ms)} ms", "", kind)
    if row == timing.latencies[0]:
        return (p50, p90, Cell("1", "baseline", kind))
    ends = wording.interval(row.ratio, row.ratio_low, row.ratio_high)
    doubt = " no difference" if no_difference(row, timing) else ""
    return (p50, p90, Cell(wording.real(row.ratio), ends + doubt, kind))


def _verification_row(candidate: Candidate) -> tuple[Cell, ...]:
    artifact, row = candidate.artifact, candidate.artifact.verification
    by_number = sorted(artifact.precision.op_counts.items(), key=lambda item: (-item[1], item[0]))
    ops = ", ".join(f"{op} {number}" for op, number in by_number)
    agreement = Cell(wording.percent(row.agreement), wording.share(row.agreement, ""))
    return (
        Cell(candidate.stage, artifact.backend),
        Cell(wording.INTEGERS[row.precision], "" if row.floats == "fp32" else f"else {row.floats.upper()}"),
        Cell("failed" if row.failures else "yes"),
        Cell(row.inputs),
        Cell(wording.real(row.max_abs)),
        Cell(wording.decibels(row.sqnr_db), f"at least {wording.real(row.evidence.least_sqnr_db, 2)}"),
        agreement if row.agreement.total else missing(),
        _worst_class(row.evidence.worst_class),
        *(_int8(artifact.precision.int8_share(op)) for op in ("conv", "add")),
        Cell(ops, kind="prose") if ops else missing("not listed"),
    )


def _layer_row(found: Layers, row: Layer) -> tuple[Cell, ...]:
    cells = [Cell(row.layer, row.op), Cell(row.precision.upper()) if row.precision else missing("not listed")]
    if found.timed_by:
        untimed = missing(f"with {row.within}" if row.within else "not told")
        cells.append(untimed if row.ms is None else Cell(f"{wording.real(row.ms)} ms"))
    if found.sensitivity:
        cells.append(missing() if row.sqnr_db is None else Cell(wording.decibels(row.sqnr_db)))
    return tuple(cells)


def _worst_class(found: ClassDrop | None) -> Cell:
    """The class that loses most against the baseline, or against eager PyTorch where there is none."""
    return Cell(found.name, f"{0.0 - found.points:+.1f} points of {found.images}") if found else missing()


def _int8(proportion: Proportion) -> Cell:
    return Cell(wording.share(proportion)) if proportion.total else missing("none in graph")


def _accuracy(proportion: Proportion | None) -> Cell:
    text = wording.percent(proportion)
    return missing() if text == wording.MISSING else Cell(text, wording.percent_interval(proportion))


def missing(text: str = wording.MISSING) -> Cell:
    """A cell that says that there is no number."""
    return Cell(text, kind="missing")
