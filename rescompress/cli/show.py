"""Results on standard output: tables for people, one JSON document for programs."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rescompress import cli as command_line
from rescompress.agreement import LayerAgreement
from rescompress.artifact import to_json
from rescompress.cpu import UNAVAILABLE
from rescompress.spec import RunReport, VerificationRow
from rescompress.views import Inspection

if TYPE_CHECKING:
    from rescompress.benchmarking.results import Results
    from rescompress.reporting.comparison import Comparison

form = "human"
PIPE_WIDTH = 160
"""Columns where there is no terminal to ask; a narrow default would break every row."""


def document(value: Any) -> None:
    """One JSON document."""
    command_line.printed = True
    sys.stdout.write(to_json(value).decode())


def lines(texts: Iterable[str]) -> None:
    """A line each; in JSON, one list."""
    if form == "json":
        document(list(texts))
    elif form == "human":
        for text in texts:
            print(text)


def report(found: RunReport) -> None:
    """The stages of a run and what was proven of each."""
    if form == "json":
        document(found)
    if form != "human":
        return
    from rescompress.reporting import verdict

    rows = [
        [
            row.label,
            _percent(row.accuracy),
            f"{row.cost.params:,}",
            f"{row.cost.macs:,}",
            f"{row.cost.weight_bytes:,}",
            *_proof(found, row.label),
        ]
        for row in found.stages
    ]
    table(["stage", "top-1 %", "params", "MACs", "weight bytes", "in its runtime %", "p50 ms", "ratio"], rows)
    print(verdict.headline(found))


def inspection(found: Inspection) -> None:
    """What a network is, what each layer costs, and what will hurt."""
    if form == "json":
        document(found)
    if form == "human":
        from rescompress.cli import inspected

        inspected.show(found)


def verification(row: VerificationRow) -> None:
    """What an artifact computes against eager PyTorch."""
    if form == "json":
        document(row)
    if form != "human":
        return
    facts = [
        ["accuracy in its runtime", _percent(row.accuracy)],
        ["accuracy in eager PyTorch", _percent(row.reference_accuracy)],
        ["largest difference of logits", f"{row.max_abs:.3g}"],
        ["SQNR", f"{row.sqnr_db:.1f} dB, at least {row.evidence.least_sqnr_db:.0f}"],
        ["top-1 agreement", _percent(row.agreement)],
        *_by_label(row),
        ["inputs", row.inputs],
        ["precision", row.precision],
        ["proven", row.rung],
        *(["weakest layer", f"{layer.layer}, {layer.own_db:.0f} dB"] for layer in _weakest(row)),
        ["verdict", "; ".join(row.failures) or "verified"],
    ]
    table([row.label, row.backend], facts)
    for note in (row.evidence.stood_in, *row.evidence.notes):
        if note:
            print(note)


def _by_label(row: VerificationRow) -> list[list[str]]:
    """What labels tell: gains and losses image by image, and the class that loses most."""
    found = row.evidence
    pairs = (("eager", found.against_eager), ("the baseline", found.against_baseline))
    facts = [[f"against {name}", f"{one.won} won, {one.lost} lost, p {one.p:.2g}"] for name, one in pairs if one]
    worst = found.worst_class
    return [*facts, ["worst class", f"{worst.name}: {-worst.points:+.1f} points of {worst.images}"]] if worst else facts


def _weakest(row: VerificationRow) -> list[LayerAgreement]:
    """The layer whose own output is farthest from eager's, if anybody looked."""
    return sorted(row.evidence.layers, key=lambda layer: layer.own_db)[:1]


def results(found: "Results") -> None:
    """Latencies of all candidates, whether they can be trusted, and what the gate found."""
    if form == "json":
        document(found)
    if form == "human":
        from rescompress.cli import latencies

        latencies.show_results(found)


def comparison(found: "Comparison") -> None:
    """Runs and benchmarks side by side."""
    if form == "json":
        document(found)
    if form == "human":
        from rescompress.cli import latencies

        latencies.show_comparison(found)


def diagnosis(found: Any) -> None:
    """The machine and each runtime."""
    if form == "json":
        document(found)
    if form != "human":
        return
    where = found.environment
    isa = " ".join(where.isa) or "no vector instructions known"
    print(f"{where.cpu}, {where.cores} cores, {where.memory_bytes / 2**30:.1f} GiB, {isa}")
    print(f"{where.system}, Python {where.python}, " + ", ".join(f"{k} {v}" for k, v in where.packages.items()))
    told = {name: value for name, value in found.conditions.items() if not value.startswith(UNAVAILABLE)}
    print("conditions: " + " · ".join(f"{name} {value}" for name, value in told.items()))
    print(f"{UNAVAILABLE}: {', '.join(name for name in found.conditions if name not in told) or 'nothing'}")
    rows = [
        [t.name, t.rung or "-", ", ".join(f"{k} {v}" for k, v in t.versions.items()) or t.remedy, t.hindrance]
        for t in found.targets
    ]
    table(["runtime", "rung", "releases, or how to get it", "what hinders more"], rows)
    print("L0 written · L1 contract-tested, not executed · L2 executed and verified · L3 timed on the device")


def recipes(found: Mapping[str, str]) -> None:
    """The shipped recipes and what each is for."""
    if form == "json":
        document(dict(found))
    elif form == "human":
        table(["recipe", "what it does"], [[name, about] for name, about in found.items()])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as the terminal; what is in it may come from a file, so nothing in it is markup."""
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    filled = list(rows)
    for place, title in enumerate(head):
        numbers = place > 0 and all(row[place][:1].isdigit() or row[place] == "-" for row in filled)
        drawn.add_column(title, no_wrap=not place, justify="right" if numbers else "left")
    for row in filled:
        drawn.add_row(*map(escape, row))
    console = Console()
    console.width = max(console.width, 0 if console.is_terminal else PIPE_WIDTH)
    console.print(drawn)


def _proof(found: RunReport, label: str) -> list[str]:
    artifacts = [row for row in found.artifacts if row.label == label]
    timed = [row for row in (found.benchmark.latencies if found.benchmark else ()) if row.label == label]
    accuracy = _percent(artifacts[0].verification.accuracy) if artifacts else "-"
    if not timed:
        return [accuracy, "-", "-"]
    return [
        accuracy,
        f"{timed[0].p50_ms:.3f}",
        f"{timed[0].ratio:.3f} [{timed[0].ratio_low:.3f}, {timed[0].ratio_high:.3f}]",
    ]


def _percent(proportion: Any) -> str:
    return f"{proportion.percent:.2f}" if proportion else "-"
