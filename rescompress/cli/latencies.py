"""Results of benchmarks as tables for people: latencies, what the gate found, and runs side by side."""

from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite

from rescompress.benchmarking.results import Results
from rescompress.cli import profiled
from rescompress.cli.show import table
from rescompress.reporting import compared
from rescompress.reporting.comparison import Comparison
from rescompress.reporting.tables import Cell
from rescompress.timing import BenchmarkRow, LatencyRow, RuleRow

Column = Callable[[LatencyRow], float | int | None]
IF_KNOWN: dict[str, Column] = {
    "p95 ms": lambda row: row.p95_ms,
    "p99 ms": lambda row: row.p99_ms,
    "on the device ms": lambda row: row.compute_p50_ms,
    "images/s": lambda row: row.images_per_s,
    "load ms": lambda row: row.cold.load_ms,
    "first ms": lambda row: row.cold.first_ms,
    "peak MB": lambda row: None if row.cold.peak_rss_bytes is None else row.cold.peak_rss_bytes / 1e6,
    "mJ": lambda row: row.energy_mj,
}
"""Columns that stand there if anybody measured them."""
IN_TIME = "99 % in time"
KEPT = {True: "yes", False: "no", None: "too few"}
MATTERS = {"offline": ("images/s", "ratio [95 %]"), "server": (IN_TIME, "p99 ms")}
"""Columns that come first in a scenario."""


def show_results(found: Results) -> None:
    """Latencies of all candidates, whether they can be trusted, and what each rule found."""
    row = found.benchmark
    assert row is not None, "the harness has timed"
    columns = _columns(row)
    first = [title for title in MATTERS.get(row.scenario, ()) if title in columns]
    titles = [*first, *(title for title in columns if title not in first)]
    shown = [[_artifact(each, row), *(columns[title](each) for title in titles)] for each in row.latencies]
    table(["artifact", *titles], shown)
    profiled.show(row)
    if row.scenario != "interleaved":
        asked = ", ".join(f"{name} {value:g}" for name, value in row.target.items())
        print(f"Asked by MLPerf LoadGen, {row.scenario}: {asked}. This is no MLPerf result.")
    print(f"{row.verdict}: {' '.join(row.reasons) or 'no objection'}")
    show_rules(found.rules)


def _artifact(each: LatencyRow, row: BenchmarkRow) -> str:
    several = len({one.backend for one in row.latencies}) > 1
    return f"{each.label} ({each.backend})" if several else each.label


def _columns(row: BenchmarkRow) -> dict[str, Callable[[LatencyRow], str]]:
    """What each column says of an artifact, by title."""
    known = {name: told for name, told in IF_KNOWN.items() if any(told(each) is not None for each in row.latencies)}
    limit, of = row.target.get("slo_ms"), "a batch's " if row.scenario == "offline" else ""
    return {
        f"{of}p50 ms [95 %]": lambda each: f"{each.p50_ms:.3f} [{each.p50_low_ms:.3f}, {each.p50_high_ms:.3f}]",
        f"{of}p90 ms": lambda each: "too few" if each.p90_ms is None else f"{each.p90_ms:.3f}",
        "ratio [95 %]": lambda each: f"{each.ratio:.3f} [{each.ratio_low:.3f}, {each.ratio_high:.3f}]",
        "batches" if of else "queries": lambda each: str(each.queries),
        **{name: partial(_told, column) for name, column in known.items()},
        **({IN_TIME: lambda each: f"{KEPT[each.within_slo]} ({limit:g} ms)"} if limit else {}),
    }


def _told(column: Column, each: LatencyRow) -> str:
    return _number(column(each))


def show_rules(rules: Sequence[RuleRow]) -> None:
    """A line for each rule and artifact."""
    for one in rules:
        print(f"{one.rule}: {one.outcome}. {one.fact}")


def show_comparison(found: Comparison) -> None:
    """Artifacts side by side, what else differs, and the verdicts."""
    artifacts = compared.artifact_table(found)
    table(artifacts.columns, [list(map(_text, row)) for row in artifacts.rows])
    for title, rows in (("what differs", found.environment), ("recipe", found.recipe)):
        if rows:
            table([title, *(side.name for side in found.sides)], [[row.name, *row.values] for row in rows])
    for side in found.sides:
        print(f"{side.name}: {side.verdict or 'not timed'}. {' '.join(compared.remarks(side))}")
    print(compared.headline(found))


def _text(cell: Cell) -> str:
    text = f"{cell.text} {cell.detail}".strip()
    return f"({text})" if cell.kind == "void" else text


def _number(value: float | int | None) -> str:
    return "-" if value is None or not isfinite(value) else f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
