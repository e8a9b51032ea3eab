"""The report as Markdown, short enough for a pull request."""

import re

from rescompress.reporting import verdict
from rescompress.reporting.tables import Cell, Table, notes, result_table, stage_table, verification_table
from rescompress.spec import RunReport

MARKS = {"good": "✅", "warn": "⚠️", "bad": "❌", "none": "▫️"}
LEFT_OUT = ("Inputs", "Max-abs", "Ops of the optimized graph", "Knobs")


def render(report: RunReport) -> str:
    """Verdict, headline, results, verification, stages where some were not exported, notes, and the command."""
    overall = verdict.overall(report)
    parts = [
        f"## {escaped(report.name)}: {MARKS[overall.tone]} {overall.word}",
        f"**{escaped(verdict.headline(report))}**",
        "\n".join(_judged(judgement) for judgement in verdict.judgements(report)),
        f"Model: {escaped(report.model)}. Data: {escaped(report.data or 'none')}. "
        f"Machine: {escaped(report.environment.cpu)}, {report.environment.cores} cores. "
        f"rescompress {escaped(report.tool_version)}.",
    ]
    if report.artifacts:
        parts += [
            grid(result_table(report)),
            "Brackets are 95 % intervals. A latency ratio below 1 is faster than the baseline.",
            grid(_short(verification_table(report))),
        ]
    exported = {row.label for row in report.artifacts}
    if not {stage.label for stage in report.stages} <= exported:
        parts.append(grid(_short(stage_table(report))))
    if said := notes(report):
        parts.append("\n".join(f"- {escaped(note)}" for note in said))
    parts.append(fenced(report.command))
    return "\n\n".join(parts) + "\n"


def _short(table: Table) -> Table:
    """The columns that a pull request has room for."""
    kept = [place for place, name in enumerate(table.columns) if name not in LEFT_OUT]
    rows = tuple(tuple(row[place] for place in kept) for row in table.rows)
    return Table(tuple(table.columns[place] for place in kept), rows)


def _judged(judgement: verdict.Judgement) -> str:
    reasons = " ".join(escaped(reason) for reason in judgement.reasons)
    return f"- {MARKS[judgement.tone]} **{judgement.subject} {judgement.word}.** {reasons}"


def grid(table: Table) -> str:
    """A table; what is not to be trusted is struck out."""
    lines = [table.columns, ("---",) * len(table.columns)]
    lines += [tuple(map(_cell, row)) for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    text = escaped(f"{cell.text} {cell.detail}".strip())
    return f"~~{text}~~" if cell.kind == "void" else text


def fenced(text: str, language: str = "sh") -> str:
    """A block of code whose fence is longer than any in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def escaped(text: str) -> str:
    """One line in which Markdown and HTML see no syntax; ``[`` opens a link only before ``(`` and may stay."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*|~])", r"\\\1", text).replace("](", "]\\(")
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
