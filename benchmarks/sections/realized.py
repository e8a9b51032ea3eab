"""How much of a cut becomes speed."""

from collections.abc import Iterator
from typing import Any

from sections import table


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A row per network, runtime, precision and share."""
    rows = [
        (
            *(row[key] for key in ("network", "runtime", "precision")),
            f"{row['macs']:.3f}",
            row["round_to"],
            f"{row['whole_ms']:.2f} → {row['ms']:.2f} ms",
            f"{row['latency']:.3f}",
            f"{row['realized']:.0%}",
        )
        for row in found["rows"]
    ]
    header = (
        "network",
        "runtime",
        "precision",
        "MACs left",
        "steps of widths",
        "median",
        "latency left",
        "realized",
    )
    yield from table(header, rows)
