"""The demo: each stage as it is in ONNX Runtime."""

from collections.abc import Iterator
from typing import Any

from sections import interval, table, timing


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A row per stage."""
    header = ("stage", "top-1", "INT8 convs, adds", "kB", "p50", "latency [95 %]")
    yield from table(header, [_cells(row) for row in found["rows"]])
    yield from timing(found["timing"]["verdict"], found["timing"]["reasons"])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    right, convs, adds = row["accuracy"], row["int8_convs"], row["int8_adds"]
    return (
        row["stage"],
        f"{100 * right['correct'] / right['total']:.2f} % ({right['correct']} of {right['total']})",
        f"{convs['correct']} of {convs['total']}, {adds['correct']} of {adds['total']}",
        f"{row['size_bytes'] / 1000:,.0f}",
        f"{row['p50_ms']:.3f} ms",
        interval(row["ratio"]),
    )
