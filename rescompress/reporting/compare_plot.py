"""Median latencies of the same artifacts in several runs, a row of dots for each artifact."""

from typing import Any

from rescompress.reporting import svg, wording
from rescompress.reporting.comparison import Comparison, Lineup
from rescompress.reporting.plots import Canvas
from rescompress.reporting.svg import COLOURS

WIDE, NARROW = Canvas("wide", 1060, 0), Canvas("narrow", 330, 0)
"""Width counts; the height follows the rows."""
ROW_PIXELS = 44
"""Least height of an artifact's row."""
MOST_SERIES = 8
LONGEST_NAME = 24


def medians(found: Comparison, canvas: Canvas) -> str | None:
    """A row for each artifact, in it a dot with its interval for each side; None where none has a trusted timing."""
    import matplotlib

    timed = [lineup for lineup in found.lineups if any(_points(found, lineup))]
    if not timed:
        return None
    several = len({lineup.backend for lineup in timed}) > 1
    names = [f"{lineup.label}\n{lineup.backend}" if several else lineup.label for lineup in timed]
    name = f"medians-{canvas.name}"
    with matplotlib.rc_context(svg.style()), svg.quiet():
        drawn = svg.figure(canvas.width, 90 + len(timed) * max(ROW_PIXELS, 16 * len(found.sides)))
        axes = drawn.subplots()
        titles = {}
        for row, (lineup, text) in enumerate(zip(timed, names, strict=True)):
            for side, (p50, low, high) in _points(found, lineup):
                gid = f"{name}-{row}-{side}"
                offset = 0.6 * ((side + 0.5) / len(found.sides) - 0.5)
                _draw(axes, (p50, low, high), row + offset, side, gid)
                titles[gid] = f"{text.replace(chr(10), ', ')} in {found.sides[side].name}: {wording.real(p50)} ms"
        axes.set_yticks(range(len(names)), [_short(text) for text in names])
        axes.set(xlabel="p50 latency, ms per batch", ylim=(len(timed) - 0.4, -0.6))
        axes.set_xlim(left=0)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        _legend(drawn, found, canvas)
        return svg.inline(drawn, name, f"Median latency. {'; '.join(titles.values())}.", titles)


def _points(found: Comparison, lineup: Lineup) -> list[tuple[int, tuple[float, float, float]]]:
    """Side, median and its interval, of every timing that can be trusted."""
    return [
        (place, (one.p50_ms.value, one.p50_ms.low, one.p50_ms.high))
        for place, (side, one) in enumerate(zip(found.sides, lineup.standings, strict=True))
        if one is not None and one.p50_ms is not None and side.verdict != "INVALID"
    ]


def _draw(axes: Any, span: tuple[float, float, float], y: float, side: int, gid: str) -> None:
    p50, low, high = span
    colour = COLOURS[f"series-{side % MOST_SERIES}"]
    bars = [[max(p50 - low, 0)], [max(high - p50, 0)]]
    axes.errorbar(p50, y, xerr=bars, fmt="none", ecolor=colour, elinewidth=2, alpha=0.8)
    axes.scatter(p50, y, s=46, color=colour, linewidths=0, zorder=3, gid=gid)


def _legend(drawn: Any, found: Comparison, canvas: Canvas) -> None:
    from matplotlib.patches import Patch

    shown = {side for lineup in found.lineups for side, _ in _points(found, lineup)}
    names = {place: _short(side.name) for place, side in enumerate(found.sides) if place in shown}
    patches = [Patch(color=COLOURS[f"series-{place % MOST_SERIES}"], label=name) for place, name in names.items()]
    longest = max(map(len, names.values()))
    columns = max(1, int(canvas.width / (42 + 7 * longest)))
    drawn.legend(handles=patches, loc="outside upper left", ncols=columns, fontsize=11, handlelength=0.9)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
