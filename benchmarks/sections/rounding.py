"""Learned and solved rounding beside rounding to nearest."""

from collections.abc import Iterator
from typing import Any

from sections import interval, table

WAYS = ("nearest minmax", "nearest mse", "gptq", "adaround")


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A row per network, bits and way; each change has its paired interval."""
    header = ("network", "bits", "images", "way", "change [95 %]", "over minmax [95 %]", "agrees", "SQNR", "CPU s")
    yield from table(header, [_cells(row, way) for row in found["rows"] for way in WAYS if way in row])


def _cells(row: dict[str, Any], way: str) -> tuple[object, ...]:
    found = row[way]
    changed = interval([-found[end] for end in ("drop", "high", "low")], sign="+")
    gained = "-" if way == WAYS[0] else interval([found["gain"][end] for end in ("points", "low", "high")], sign="+")
    agrees, near = f"{found['agreement']:.2f} %", f"{found['sqnr_db']:.1f} dB"
    return (row["network"], row["bits"], row["images"], way, changed, gained, agrees, near, found["cpu_s"])
