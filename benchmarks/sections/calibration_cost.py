"""What calibrating costs: seconds and memory by the number of images, and who is ahead."""

from collections.abc import Iterator
from typing import Any

from sections import table

OURS, TIED = "rescompress, all values", 0.05
Row = dict[str, Any]


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A row per tool, images and CPUs; a sentence for each number of images where ours has something beside it."""
    rows = sorted(found["rows"], key=lambda row: (row["images"], row["cpus"], row["tool"]))
    header = ("tool", "images", "CPUs", "seconds", "CPU s", "peak MB", "ours: CPU s, memory")
    yield from table(header, [_cells(row, _ours(rows, row)) for row in rows])
    alone = sorted({row["images"] for row in rows if row["tool"] == OURS and not _beside(rows, row)})
    if alone:
        yield f"Nothing was measured beside ours at {', '.join(map(str, alone))} images on as many CPUs."
        yield ""
    peaks = sorted((row["images"], row["peak_mb"]) for row in rows if row["tool"] == OURS and "peak_mb" in row)
    if peaks:
        most = max(peak for _, peak in peaks)
        yield f"Ours never held more than {most:,} MB, with {peaks[0][0]} to {peaks[-1][0]} images."
        yield ""


def _cells(row: Row, ours: Row | None) -> tuple[object, ...]:
    head = (row["tool"], row["images"], row["cpus"])
    if "died" in row:
        return (*head, f"died after {row['seconds']} s: {row['died']}", "-", "-", "first" if ours else "-")
    beside = "-" if ours is None else f"{_word(ours, row, 'cpu_s')}, {_word(ours, row, 'peak_mb')}"
    return (*head, row["seconds"], row["cpu_s"], f"{row['peak_mb']:,}", beside)


def _ours(rows: list[Row], beside: Row) -> Row | None:
    """Our row of the same images and CPUs; none for itself."""
    key = (beside["images"], beside["cpus"])
    if beside["tool"] == OURS:
        return None
    return next((row for row in rows if row["tool"] == OURS and (row["images"], row["cpus"]) == key), None)


def _beside(rows: list[Row], ours: Row) -> list[Row]:
    return [row for row in rows if _ours(rows, row) is ours]


def _word(ours: Row, other: Row, column: str) -> str:
    share = ours[column] / other[column] - 1
    return "tied" if abs(share) < TIED else "first" if share < 0 else "not first"
