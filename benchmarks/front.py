"""The Pareto front of accuracy, latency and size, and its picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rescompress import artifact
from rescompress.metrics import wilson
from rescompress.spec import Proportion

Row = dict[str, Any]
LARGEST = 900.0
"""Area of the largest file's marker, in square points."""


def pareto(rows: Sequence[Row]) -> list[bool]:
    """Whether each row is on the front: no other is at least as good in all three, and better in one."""
    return _unbeaten([(-_percent(row), row["p50_ms"][0], row["size_bytes"]) for row in rows])


def _unbeaten(costs: Sequence[tuple[float, ...]]) -> list[bool]:
    def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    return [not any(dominates(other, own) for other in costs) for own in costs]


def draw(rows: Sequence[Row], file: Path) -> None:
    """Top-1 against latency, both with their 95 % intervals; a marker's area is the size of the file.

    The same rows give the same bytes. Rows on the front are filled, the others hollow; a line joins those that none
    beats in accuracy and latency, whatever its size.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    style = {"svg.hashsalt": "rescompress", "svg.fonttype": "path", "font.size": 9}
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(8, 7), layout="constrained")
        most = max(row["size_bytes"] for row in rows)
        for number, row in enumerate(rows, 1):
            _point(axes, number, row, LARGEST * row["size_bytes"] / most)
        places = [(row["p50_ms"][0], -_percent(row)) for row in rows]
        best = sorted((p50, -cost) for (p50, cost), on_it in zip(places, _unbeaten(places), strict=True) if on_it)
        axes.plot(*zip(*best, strict=True), color="#1f5fa8", linewidth=1, zorder=1)
        axes.set(xscale="log", xlabel="p50 latency in ms, one thread, batch 1", ylabel="top-1 in ONNX Runtime, %")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.grid(color="#dddddd", linewidth=0.5)
        figure.legend(loc="outside lower left", ncols=2, frameon=False, handlelength=0, handletextpad=0)
        file.parent.mkdir(parents=True, exist_ok=True)
        with artifact.writing(file) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _point(axes: Any, number: int, row: Row, area: float) -> None:
    right = Proportion(row["accuracy"]["correct"], row["accuracy"]["total"])
    (low, high), (p50, fastest, slowest) = wilson(right), row["p50_ms"]
    colour = "#1f5fa8" if row["front"] else "#888888"
    axes.errorbar(
        p50,
        right.percent,
        xerr=[[max(0.0, p50 - fastest)], [max(0.0, slowest - p50)]],
        yerr=[[max(0.0, right.percent - low)], [max(0.0, high - right.percent)]],
        color=colour,
        linewidth=0.8,
        zorder=2,
    )
    face = colour if row["front"] else "white"
    axes.scatter(p50, right.percent, s=area, facecolor=face, edgecolor=colour, alpha=0.6, zorder=3)
    axes.annotate(str(number), (p50, right.percent), (5, 5), textcoords="offset points", weight="bold", zorder=4)
    axes.plot([], [], label=f"{number}  {row['recipe']}")


def _percent(row: Row) -> float:
    return 100.0 * row["accuracy"]["correct"] / row["accuracy"]["total"]
