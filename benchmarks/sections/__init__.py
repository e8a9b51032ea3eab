"""The parts of ``README.md``: one file per benchmark, whose ``lines(found)`` shows what ``results/NAME.json`` holds."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table, an empty line behind it."""
    lines = [header, ["---"] * len(header), *rows]
    return [*("| " + " | ".join(map(str, cells)) + " |" for cells in lines), ""]


def interval(values: Sequence[float], places: int = 2, sign: str = "") -> str:
    """A value with the two ends of its 95 % interval."""
    value, low, high = (f"{part:{sign}.{places}f}" for part in values)
    return f"{value} [{low}, {high}]"


def timing(verdict: str, reasons: Sequence[str]) -> list[str]:
    """The timing's own verdict with its reasons."""
    return [" ".join([f"The timing's own verdict: {verdict}.", *reasons]), ""]
