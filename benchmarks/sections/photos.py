"""INT8 of ImageNet's networks on all photos."""

from collections.abc import Iterator
from typing import Any

from sections import interval, table


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A row per network and runtime."""
    header = ("network", "runtime", "FP32's top-1", "change [95 %]", "each split's change", "agrees")
    yield from table(header, [_cells(row) for row in found["rows"]])


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    changed = interval([-row[end] for end in ("drop", "high", "low")], sign="+")
    each = ", ".join(f"{-lost:+.2f}" for lost in row["each"])
    return (row["network"], row["runtime"], f"{row['accuracy']:.2f} %", changed, each, f"{row['agreement']:.2f} %")
