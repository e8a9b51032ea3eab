"""What calibrating costs: seconds and memory by the number of images, and who is ahead."""

from collections.abc import Iterator
from typing import Any

from sections import table

OURS, EXPORT, TIED = "rescompress, all values", "FP32 ONNX, for the others", 0.05
Row = dict[str, Any]


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A row per tool, images and CPUs; a sentence for each number of images where ours has something beside it."""
    rows = sorted(found["rows"], key=lambda row: (row["images"], row["cpus"], row["tool"]))
    header = (
        "tool",
        "images",
        "CPUs",
        "seconds",
        "from the checkpoint",
        "CPU s",
        "peak MB",
        "ours: seconds, CPU s, memory",
    )
    yield from table(header, [_cells(row, _alike(rows, row, OURS), _alike(rows, row, EXPORT)) for row in rows])
    yield "Seconds are compared from the checkpoint on; the others' CPU seconds and memory leave their FP32 file's out."
    yield ""
    alone = sorted({row["images"] for row in rows if row["tool"] == OURS and not _beside(rows, row)})
    if alone:
        yield f"Nothing was measured beside ours at {', '.join(map(str, alone))} images on as many CPUs."
        yield ""
    peaks = sorted((row["images"], row["peak_mb"]) for row in rows if row["tool"] == OURS and "peak_mb" in row)
    if peaks:
        most = max(peak for _, peak in peaks)
        yield f"Ours never held more than {most:,} MB, with {peaks[0][0]} to {peaks[-1][0]} images."
        yield ""


def _cells(row: Row, ours: Row | None, export: Row | None) -> tuple[object, ...]:
    head = (row["tool"], row["images"], row["cpus"])
    if "died" in row:
        return (*head, f"died after {row['seconds']} s: {row['died']}", "-", "-", "-", "first" if ours else "-")
    whole = _whole(row, export)
    theirs = {**row, "seconds": whole}
    words = [_word(ours[column], theirs[column]) for column in ("seconds", "cpu_s", "peak_mb")] if ours else ["-"]
    shown = "-" if whole is None else f"{whole:.1f}"
    return (*head, row["seconds"], shown, row["cpu_s"], f"{row['peak_mb']:,}", ", ".join(words))


def _whole(row: Row, export: Row | None) -> float | None:
    """Seconds from the checkpoint on; None where the export wasn't measured."""
    if row["tool"] == OURS:
        return float(row["seconds"])
    return None if export is None else float(row["seconds"] + export["seconds"])


def _alike(rows: list[Row], beside: Row, tool: str) -> Row | None:
    """The tool's row of the same images and CPUs; none beside itself, or beside what isn't compared."""
    if beside["tool"] in (tool, EXPORT):
        return None
    key = (beside["images"], beside["cpus"])
    return next((row for row in rows if row["tool"] == tool and (row["images"], row["cpus"]) == key), None)


def _beside(rows: list[Row], ours: Row) -> list[Row]:
    return [row for row in rows if _alike(rows, row, OURS) is ours]


def _word(ours: float, other: float | None) -> str:
    if other is None:
        return "-"
    share = ours / other - 1
    return "tied" if abs(share) < TIED else "first" if share < 0 else "not first"
