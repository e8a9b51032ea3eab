"""Learned rounding beside rounding to nearest."""

from collections.abc import Iterator
from typing import Any

from sections import interval, table


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A row per network and bits; each change has its paired interval."""
    ways = ("nearest minmax", "nearest mse", "adaround")
    header = ("network", "bits", "images", *(f"{way}: change [95 %]" for way in ways), "over minmax [95 %]", "CPU s")
    yield from table(header, [_cells(row, ways) for row in found["rows"]])


def _cells(row: dict[str, Any], ways: tuple[str, ...]) -> tuple[object, ...]:
    changes = (interval([-row[way][end] for end in ("drop", "high", "low")], sign="+") for way in ways)
    gain = row["gain over nearest minmax"]
    gained = interval([gain[end] for end in ("points", "low", "high")], sign="+")
    return (row["network"], row["bits"], row["images"], *changes, gained, row["cpu_s"])
