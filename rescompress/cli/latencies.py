"""Results of benchmarks as tables for people: latencies, what the gate found, and runs side by side."""

from collections.abc import Callable, Sequence
from math import isfinite

from rescompress.benchmarking.results import Results
from rescompress.cli.show import table
from rescompress.reporting import compared
from rescompress.reporting.comparison import Comparison
from rescompress.reporting.tables import Cell
from rescompress.timing import LatencyRow, RuleRow

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


def show_results(found: Results) -> None:
    """Latencies of all candidates, whether they can be trusted, and what each rule found."""
    row = found.benchmark
    assert row is not None, "the harness has timed"
    several = len({each.backend for each in row.latencies}) > 1
    extra = {
        name: column for name, column in IF_KNOWN.items() if any(column(each) is not None for each in row.latencies)
    }
    shown = [
        [
            f"{each.label} ({each.backend})" if several else each.label,
            f"{each.p50_ms:.3f} [{each.p50_low_ms:.3f}, {each.p50_high_ms:.3f}]",
            "too few" if each.p90_ms is None else f"{each.p90_ms:.3f}",
            f"{each.ratio:.3f} [{each.ratio_low:.3f}, {each.ratio_high:.3f}]",
            str(each.queries),
            *(_number(column(each)) for column in extra.values()),
        ]
        for each in row.latencies
    ]
    table(["artifact", "p50 ms [95 %]", "p90 ms", "ratio [95 %]", "queries", *extra], shown)
    print(f"{row.verdict}: {' '.join(row.reasons) or 'no objection'}")
    show_rules(found.rules)


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
