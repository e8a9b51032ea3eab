"""The whole chain's front: a row per recipe, and the picture."""

from collections.abc import Iterator
from typing import Any

from rescompress.metrics import wilson
from rescompress.spec import Proportion
from sections import interval, table, timing


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Numbers are those of the picture."""
    yield f"Epochs after each cut: {found['epochs']}; test images: {found['test_images']:,}."
    yield ""
    yield "![Top-1 against latency of each recipe's file; the area is its size](results/pipeline.svg)"
    yield ""
    header = ("", "recipe", "top-1 [95 %]", "MACs", "kB", "p50", "latency [95 %]", "rung", "on the front")
    yield from table(header, [_cells(number, row) for number, row in enumerate(found["rows"], 1)])
    yield from timing(found["timing"]["verdict"], found["timing"]["reasons"])
    failed = [f"{row['recipe']}: {why}" for row in found["rows"] for why in row["failures"]]
    if failed:
        yield f"Verification failed: {' '.join(failed)}"
        yield ""


def _cells(number: int, row: dict[str, Any]) -> tuple[object, ...]:
    right = Proportion(**row["accuracy"])
    return (
        number,
        row["recipe"],
        interval((right.percent, *wilson(right))),
        f"{row['macs'] / 1e6:.1f} M",
        f"{row['size_bytes'] / 1000:,.0f}",
        f"{row['p50_ms'][0]:.3f} ms",
        interval(row["ratio"]),
        row["rung"],
        "yes" if row["front"] else "-",
    )
