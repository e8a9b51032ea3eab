"""The tables of a report as text in cells, so that HTML and Markdown say the same."""

from dataclasses import dataclass
from typing import Literal

from rescompress.agreement import ClassDrop
from rescompress.reporting import wording
from rescompress.reporting.verdict import Candidate, candidates, no_difference, rung
from rescompress.spec import ArtifactRow, BenchmarkRow, LatencyRow, Proportion, RunReport, StageRow

Kind = Literal["", "missing", "void", "prose"]


@dataclass(frozen=True)
class Cell:
    """What one cell says, and small below; whether it is missing, not to be trusted, or running text."""

    text: str
    detail: str = ""
    kind: Kind = ""


@dataclass(frozen=True)
class Table:
    """Columns and rows of cells; the first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def stage_table(report: RunReport) -> Table:
    """A row per stage, or one per backend where a stage was exported to several; left-over artifacts follow."""
    exported = candidates(report)
    rows = []
    for stage in report.stages:
        own = [candidate for candidate in exported if candidate.artifact.label == stage.label]
        rows += [_stage_row(report, stage, candidate) for candidate in own] or [_stage_row(report, stage, None)]
    known = {stage.label for stage in report.stages}
    rows += [_stage_row(report, None, candidate) for candidate in exported if candidate.artifact.label not in known]
    return Table(
        (
            "Stage",
            "Accuracy, eager",
            "Accuracy, runtime",
            "Parameters",
            "MACs",
            "Weights",
            "File",
            "p50",
            "p90",
            "Latency ratio",
            "Knobs",
        ),
        tuple(rows),
    )


def verification_table(report: RunReport) -> Table:
    """A row per artifact: how close it is to eager PyTorch and what precision it really has."""
    columns = ("Artifact", "Rung", "Integers", "Verified", "Inputs", "Max-abs", "SQNR", "Top-1 agreement")
    rows = tuple(_verification_row(candidate) for candidate in candidates(report))
    return Table((*columns, "Worst class", "INT8 convs", "INT8 adds", "Ops of the optimized graph"), rows)


def precision_table(artifact: ArtifactRow) -> Table:
    """A row per layer, in the order of the graph."""
    layers = artifact.precision.layers
    return Table(
        ("Layer", "Op", "Precision"),
        tuple((Cell(row.layer), Cell(row.op), Cell(row.precision.upper())) for row in layers),
    )


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


def _stage_row(report: RunReport, stage: StageRow | None, candidate: Candidate | None) -> tuple[Cell, ...]:
    artifact = candidate.artifact if candidate else None
    label = artifact.label if artifact else stage.label if stage else ""
    knobs = ", ".join(f"{name}={wording.knob(value)}" for name, value in stage.knobs.items()) if stage else ""
    costs = (stage.cost.params, stage.cost.macs) if stage else ()
    return (
        Cell(label, artifact.backend if artifact else ""),
        _accuracy(stage.accuracy if stage else None),
        _accuracy(artifact.verification.accuracy) if artifact else _missing("not exported"),
        *([Cell(wording.count(cost)) for cost in costs] or [_missing()] * 2),
        Cell(wording.size(stage.cost.weight_bytes)) if stage else _missing(),
        Cell(wording.size(artifact.size_bytes)) if artifact else _missing("not exported"),
        *_latency_cells(candidate.latency if candidate else None, report.benchmark),
        Cell(knobs or "none", kind="prose"),
    )


def _latency_cells(row: LatencyRow | None, timing: BenchmarkRow | None) -> tuple[Cell, Cell, Cell]:
    if row is None or timing is None:
        return (_missing("not timed"),) * 3
    kind: Kind = "void" if timing.verdict == "INVALID" else ""
    middle = wording.interval(row.p50_ms, row.p50_low_ms, row.p50_high_ms)
    p50 = Cell(f"{wording.real(row.p50_ms)} ms", middle, kind)
    p90 = _missing("too few queries") if row.p90_ms is None else Cell(f"{wording.real(row.p90_ms)} ms", "", kind)
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
        Cell(artifact.label, artifact.backend),
        Cell(rung(candidate), wording.RUNGS[rung(candidate)]),
        Cell(wording.INTEGERS[row.precision], "" if row.floats == "fp32" else f"else {row.floats.upper()}"),
        Cell("failed" if row.failures else "yes"),
        Cell(row.inputs),
        Cell(wording.real(row.max_abs)),
        Cell(wording.decibels(row.sqnr_db), f"at least {wording.real(row.evidence.least_sqnr_db, 2)}"),
        agreement if row.agreement.total else _missing(),
        _worst_class(row.evidence.worst_class),
        *(_int8(artifact.precision.int8_share(op)) for op in ("conv", "add")),
        Cell(ops, kind="prose") if ops else _missing("not listed"),
    )


def _worst_class(found: ClassDrop | None) -> Cell:
    """The class that loses most against the baseline, or against eager PyTorch where there is none."""
    return Cell(found.name, f"{-found.points:+.1f} points of {found.images}") if found else _missing()


def _int8(proportion: Proportion) -> Cell:
    return Cell(wording.share(proportion)) if proportion.total else _missing("none in graph")


def _accuracy(proportion: Proportion | None) -> Cell:
    text = wording.percent(proportion)
    return _missing() if text == wording.MISSING else Cell(text, wording.percent_interval(proportion))


def _missing(text: str = wording.MISSING) -> Cell:
    return Cell(text, kind="missing")
