"""Accuracy against latency as inline SVG: a colour for each stage, a shape for each backend, the size as area."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rescompress.metrics import wilson
from rescompress.reporting import svg, wording
from rescompress.reporting.placement import Box, place
from rescompress.reporting.svg import COLOURS
from rescompress.reporting.verdict import Candidate, candidates, stages_of
from rescompress.spec import LatencyRow, Proportion, RunReport

LARGEST_MARKER = 700.0  # area of the largest file's marker, in square pixels
LONGEST_NAME = 28
MOST_NAMES = 8  # with more points than these, at most those on the front are named beside them
COLLAPSE = 20.0  # points of top-1 below the best at which a candidate leaves the plot's axis
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "p")


@dataclass(frozen=True)
class Canvas:
    """How large a plot is drawn, in CSS pixels: text never shrinks with the screen, a second drawing fits it."""

    name: str
    width: int
    height: int


WIDE, NARROW = Canvas("wide", 520, 360), Canvas("narrow", 330, 320)
FULL, TALL = Canvas("wide", 1060, 460), Canvas("narrow", 330, 430)
"""For more candidates than the smaller ones can name."""


def pareto(report: RunReport, canvas: Canvas) -> str | None:
    """Accuracy of each artifact against its median latency; None where fewer than one has both."""
    import matplotlib

    measured = [row for row in candidates(report) if row.latency and row.artifact.verification.accuracy]
    if not measured:
        return None
    points = _comparable(measured)
    numbered = [(number, row) for number, row in enumerate(measured) if row in points]
    lost = [row for row in measured if row not in points]
    name = f"pareto-{canvas.name}"
    with matplotlib.rc_context(svg.style()), svg.quiet():
        drawn = svg.figure(canvas.width, canvas.height)
        axes = drawn.subplots()
        looks = _Looks.of(report)
        radii = [_draw_point(axes, row, looks, points, f"{name}-{number}") for number, row in numbered]
        front = _front(points) if report.benchmark and report.benchmark.verdict != "INVALID" else []
        _draw_front(axes, front)
        axes.set(xlabel="p50 latency, ms per batch (lower is better)", ylabel="top-1 accuracy in the runtime, %")
        axes.margins(x=0.08, y=0.12)
        axes.set_xlim(left=0)
        roomy = len(points) <= MOST_NAMES
        named = [row for row in points if roomy or (row in front and canvas is FULL)]
        looks.explain(drawn, canvas, everything=len(looks.shapes) > 1 or len(named) < len(points))
        _write_names(drawn, axes, named, points, radii)
        if lost:
            told = ", ".join(f"{_short(row.name)} {_measured(row)[1].percent:.1f} %" for row in lost)
            axes.set_title(f"below the axis: {told}", loc="left", fontsize=10, y=-0.3 if canvas is NARROW else -0.24)
        titles = {f"{name}-{number}": _told(row) for number, row in numbered}
        label = "Accuracy against median latency. " + "; ".join([*titles.values(), *map(_told, lost)]) + "."
        return svg.inline(drawn, name, label, titles)


@dataclass(frozen=True)
class _Looks:
    """The colour of each stage and the shape of each backend."""

    colours: dict[str, str]
    shapes: dict[str, str]

    @staticmethod
    def of(report: RunReport) -> "_Looks":
        assert report.benchmark, "only what was timed is drawn"
        rows = report.benchmark.latencies
        backends = dict.fromkeys(row.backend for row in rows)
        return _Looks(
            {stage: series(number) for number, stage in enumerate(stages_of(rows))},
            {backend: SHAPES[number % len(SHAPES)] for number, backend in enumerate(backends)},
        )

    def explain(self, drawn: Any, canvas: Canvas, everything: bool) -> None:
        """A key above the plot, where names beside the points don't say all."""
        from matplotlib.lines import Line2D

        if not everything:
            return
        dots = [self._handle(Line2D, "o", colour, stage) for stage, colour in self.colours.items()]
        dots += [self._handle(Line2D, shape, COLOURS["muted"], backend) for backend, shape in self.shapes.items()]
        longest = max(len(_short(dot.get_label())) for dot in dots)
        columns = max(1, int(canvas.width / (34 + 6.6 * longest)))
        drawn.legend(handles=dots, loc="outside upper left", ncols=columns, fontsize=11, handlelength=1)

    @staticmethod
    def _handle(line: Any, shape: str, colour: str, name: str) -> Any:
        return line([], [], marker=shape, color=colour, linestyle="none", markersize=7, label=_short(name))


def series(number: int) -> str:
    """The colour of the so-manieth stage."""
    return COLOURS[f"series-{number % 8}"]


def _comparable(points: Sequence[Candidate]) -> list[Candidate]:
    """The points worth an axis: one that collapsed (a cut network before it recovers) would flatten all others."""
    best = max(_measured(row)[1].percent for row in points)
    near = [row for row in points if _measured(row)[1].percent > best - COLLAPSE]
    return near if len(near) > 1 else list(points)


def _draw_point(axes: Any, row: Candidate, looks: _Looks, points: Sequence[Candidate], gid: str) -> float:
    """Draw one candidate with both intervals and give the radius of its marker, in pixels."""
    latency, accuracy = _measured(row)
    area = LARGEST_MARKER * row.artifact.size_bytes / max(point.artifact.size_bytes for point in points)
    low, high = wilson(accuracy)
    x, y, colour = latency.p50_ms, accuracy.percent, looks.colours[row.stage]
    axes.errorbar(
        x,
        y,
        xerr=[[max(x - latency.p50_low_ms, 0)], [max(latency.p50_high_ms - x, 0)]],
        yerr=[[y - low], [high - y]],
        fmt="none",
        ecolor=colour,
        elinewidth=1.2,
        alpha=0.8 if len(points) <= MOST_NAMES else 0.35,
    )
    shape = looks.shapes[row.artifact.backend]
    axes.scatter(x, y, s=area, color=colour, alpha=0.85, linewidths=0, zorder=3, gid=gid, marker=shape)
    return float((area / 3.141592653589793) ** 0.5)


def _front(points: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that no other beats in both accuracy and latency."""
    front: list[Candidate] = []
    for row in sorted(points, key=lambda row: (_measured(row)[0].p50_ms, -_measured(row)[1].percent)):
        if not front or _measured(row)[1].percent > _measured(front[-1])[1].percent:
            front.append(row)
    return front


def _draw_front(axes: Any, front: Sequence[Candidate]) -> None:
    if front:
        places = [(latency.p50_ms, accuracy.percent) for latency, accuracy in map(_measured, front)]
        axes.plot(*zip(*places, strict=True), color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 3)), zorder=1)


def _write_names(
    drawn: Any, axes: Any, named: Sequence[Candidate], points: Sequence[Candidate], radii: Sequence[float]
) -> None:
    drawn.draw_without_rendering()  # the layout must stand before a place in it can be found
    box = axes.get_window_extent()
    frame = Box(box.x0, box.y0, box.x1, box.y1)
    # those without a name go first: no name may cover them
    order = [*(row for row in points if row not in named), *named]
    radius = {id(row): one for row, one in zip(points, radii, strict=True)}
    pixels = []
    for latency, accuracy in map(_measured, order):
        x, y = axes.transData.transform((latency.p50_ms, accuracy.percent))
        pixels.append((float(x), float(y)))
    names = [_short(row.name) if row in named else "" for row in order]
    corners = place(pixels, [radius[id(row)] for row in order], names, frame, size=12)
    for name, corner in zip(names, corners, strict=True):
        if name:
            text = axes.annotate(name, corner, xycoords="figure pixels", va="bottom", annotation_clip=False, zorder=4)
            text.set_in_layout(False)


def _told(row: Candidate) -> str:
    latency, accuracy = _measured(row)
    size = wording.size(row.artifact.size_bytes)
    return f"{row.name}: {wording.percent(accuracy)}, {wording.real(latency.p50_ms)} ms, {size}"


def _measured(row: Candidate) -> tuple[LatencyRow, Proportion]:
    latency, accuracy = row.latency, row.artifact.verification.accuracy
    assert latency is not None, "only what was timed is drawn"
    assert accuracy is not None, "only what has an accuracy is drawn"
    return latency, accuracy


def _short(name: str) -> str:
    """A name that fits into a plot on a phone; the tooltip has all of it."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
