"""How latencies are distributed, as inline SVG: a curve for each artifact, a panel for each backend."""

from collections.abc import Sequence
from itertools import product
from typing import Any

from rescompress.reporting import svg, wording
from rescompress.reporting.plots import Canvas, series
from rescompress.reporting.verdict import stage_of, stages_of, timed_names
from rescompress.spec import BenchmarkRow, LatencyRow

POINTS = 200
"""Steps of a curve, at most."""
LONGEST_NAME = 28
PANEL = 340
"""Width that a panel needs, in pixels."""
PANEL_HEIGHT = 165


def distribution(timing: BenchmarkRow, canvas: Canvas) -> str | None:
    """Empirical distribution of each candidate's latency; None where nothing was timed.

    Several backends get a panel each, with one scale for all.
    """
    import matplotlib

    rows = [row for row in timing.latencies if row.ecdf_ms]
    if not rows:
        return None
    name, stages = f"latency-{canvas.name}", stages_of(timing.latencies)
    told = dict(zip(map(id, timing.latencies), timed_names(timing), strict=True))
    backends = list(dict.fromkeys(row.backend for row in rows))
    with matplotlib.rc_context(svg.style()), svg.quiet():
        drawn, panels = _panels(canvas, backends)
        for number, row in enumerate(rows):
            _draw_steps(panels[row.backend], row, stages.index(stage_of(row)), f"{name}-{number}")
        _choose_scale(next(iter(panels.values())), rows)
        drawn.supxlabel("latency, ms per batch", fontsize=12, color=svg.COLOURS["muted"])
        drawn.supylabel("share of queries, %", fontsize=12, color=svg.COLOURS["muted"])
        _explain(drawn, stages, canvas)
        medians = [f"{told[id(row)]}: median {wording.real(row.p50_ms)} ms" for row in rows]
        label = "Distribution of latency. " + "; ".join(medians) + "."
        return svg.inline(drawn, name, label, {f"{name}-{number}": said for number, said in enumerate(medians)})


def _panels(canvas: Canvas, backends: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """A figure and the axes of each backend in it."""
    columns = max(1, min(len(backends), canvas.width // PANEL))
    lines = -(-len(backends) // columns)
    height = canvas.height if len(backends) == 1 else 90 + PANEL_HEIGHT * lines
    drawn = svg.figure(canvas.width, height)
    grid = drawn.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    places = list(product(range(lines), range(columns)))
    found = {backend: grid[place] for backend, place in zip(backends, places, strict=False)}
    for place in places[len(backends) :]:
        grid[place].set_visible(False)
    for backend, axes in found.items():
        axes.set_ylim(0, 101)
        if len(backends) > 1:
            axes.set_title(_short(backend), loc="left", fontsize=12)
            axes.tick_params(labelbottom=True)
    return drawn, found


def _draw_steps(axes: Any, row: LatencyRow, number: int, gid: str) -> None:
    ordered = sorted(row.ecdf_ms)
    last = len(ordered) - 1
    kept = sorted({round(step * last / POINTS) for step in range(POINTS + 1)}) if last else [0]
    shares = [100 * place / last if last else 100.0 for place in kept]
    dash = "-" if number < 8 else (0, (4, 2))
    axes.plot([ordered[place] for place in kept], shares, color=series(number), lw=1.8, ls=dash, gid=gid)


def _explain(drawn: Any, stages: Sequence[str], canvas: Canvas) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=series(number), lw=1.8, ls="-" if number < 8 else (0, (4, 2)), label=_short(stage))
        for number, stage in enumerate(stages)
    ]
    columns = max(1, int(canvas.width / (40 + 6.4 * max(len(_short(stage)) for stage in stages))))
    drawn.legend(
        handles=lines, loc="outside upper left", ncols=columns, fontsize=11, handlelength=1.4, columnspacing=1.2
    )


def _choose_scale(axes: Any, rows: Sequence[LatencyRow]) -> None:
    """Logarithmic where latencies span more than a factor of four, so that a fast candidate is no vertical line."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min(min(row.ecdf_ms) for row in rows), max(max(row.ecdf_ms) for row in rows)
    if low <= 0 or high < 4 * low:
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
