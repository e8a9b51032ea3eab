"""On a GPU: a table per network, and what its own peaks are."""

from collections.abc import Iterator
from typing import Any

from sections import interval, table


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A row per batch, mode and precision."""
    of = found["peaks"]
    said = ", ".join(f"{floats.upper()} {2 * gmacs / 1e3:,.1f} TFLOP/s" for floats, gmacs in of["gmacs"].items())
    yield f"{found['device']}: matrix product {said}; copy {of['bandwidth_gbs']:,.0f} GB/s."
    yield ""
    header = (
        *("network", "batch", "mode", "floats", "end to end [95 %]", "compute", "images/s", "latency [95 %]"),
        *("of the roof", "mJ a query", "SQNR"),
    )
    yield from table(header, map(_cells, found["rows"]))
    for run in found["runs"]:
        said = " ".join([f"{run['network']}, batch {run['batch']}: {run['verdict']}.", *run["reasons"]])
        told = "; ".join(f"{name} {value}" for name, value in run["conditions"].items() if name.startswith("GPU"))
        yield f"- {said} {told}"
    failed = [
        f"{row['network']} {row['mode']} {row['floats']}: {why}" for row in found["rows"] for why in row["failures"]
    ]
    yield from ["", *failed, ""]


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    return (
        *(row[name] for name in ("network", "batch", "mode")),
        row["floats"].upper(),
        f"{interval(row['end_to_end_ms'], 3)} ms",
        f"{row['compute_ms']:.3f} ms" if row["compute_ms"] is not None else "-",
        f"{row['images_per_s']:,.0f}",
        interval(row["ratio"]),
        f"{row['of_roof']:.0%}",
        f"{row['energy_mj']:.2f}" if row["energy_mj"] is not None else "unavailable",
        f"{row['sqnr_db']:.0f} dB" if isinstance(row["sqnr_db"], float) else "equal",
    )
