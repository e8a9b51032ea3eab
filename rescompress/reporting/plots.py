"""The plots of a report as inline SVG: accuracy against latency, latency distributions, precision by layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rescompress.metrics import wilson
from rescompress.reporting import svg, wording
from rescompress.reporting.placement import Box, place
from rescompress.reporting.svg import COLOURS
from rescompress.reporting.verdict import Candidate, candidates
from rescompress.spec import ArtifactRow, LatencyRow, PrecisionReport, Proportion, RunReport

LARGEST_MARKER = 700.0  # area of the largest file's marker, in square pixels
ECDF_POINTS = 200
LONGEST_NAME = 28
COLLAPSE = 20.0  # points of top-1 below the best at which a candidate leaves the plot's axis
OPS = ("conv", "add", "linear", "pool")


@dataclass(frozen=True)
class Canvas:
    """How large a plot is drawn, in CSS pixels: text never shrinks with the screen, a second drawing fits it."""

    name: str
    width: int
    height: int


WIDE, NARROW = Canvas("wide", 520, 360), Canvas("narrow", 330, 320)
WIDE_STRIP, NARROW_STRIP = Canvas("wide", 1060, 230), Canvas("narrow", 330, 260)


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
        radii = [_draw_point(axes, row, number, points, name) for number, row in numbered]
        if report.benchmark and report.benchmark.verdict != "INVALID":
            _draw_front(axes, points)
        axes.set(xlabel="p50 latency, ms per batch (lower is better)", ylabel="top-1 accuracy in the runtime, %")
        axes.margins(x=0.08, y=0.12)
        axes.set_xlim(left=0)
        _write_names(drawn, axes, points, radii)
        if lost:
            told = ", ".join(f"{_short(row.name)} {_measured(row)[1].percent:.1f} %" for row in lost)
            axes.set_title(f"below the axis: {told}", loc="left", fontsize=10, y=-0.3 if canvas is NARROW else -0.24)
        titles = {f"{name}-{number}": _told(row) for number, row in numbered}
        label = "Accuracy against median latency. " + "; ".join([*titles.values(), *map(_told, lost)]) + "."
        return svg.inline(drawn, name, label, titles)


def distribution(report: RunReport, canvas: Canvas) -> str | None:
    """Empirical distribution of each candidate's latency; None where nothing was timed."""
    import matplotlib

    rows = [row for row in report.benchmark.latencies if row.ecdf_ms] if report.benchmark else []
    if not rows:
        return None
    name = f"latency-{canvas.name}"
    several = len({row.backend for row in rows}) > 1
    names = [f"{row.label} ({row.backend})" if several else row.label for row in rows]
    with matplotlib.rc_context(svg.style()), svg.quiet():
        drawn = svg.figure(canvas.width, canvas.height)
        axes = drawn.subplots()
        for number, (row, text) in enumerate(zip(rows, names, strict=True)):
            _draw_steps(axes, row, number, f"{name}-{number}", text)
        _choose_scale(axes, rows)
        axes.set(xlabel="latency, ms per batch", ylabel="share of queries, %", ylim=(0, 101))
        columns = max(1, int(canvas.width / (42 + 7 * max(len(_short(text)) for text in names))))
        drawn.legend(loc="outside upper left", ncols=columns, fontsize=11, handlelength=1.4)
        medians = [f"{text}: median {wording.real(row.p50_ms)} ms" for row, text in zip(rows, names, strict=True)]
        label = "Distribution of latency. " + "; ".join(medians) + "."
        return svg.inline(drawn, name, label, {f"{name}-{number}": told for number, told in enumerate(medians)})


def bit_widths(artifact: ArtifactRow, canvas: Canvas, salt: str) -> str | None:
    """A bar per layer in a lane per op: as high as its bits, coloured by the precision; None without layers."""
    import matplotlib

    layers = artifact.precision.layers
    if not layers:
        return None
    name = f"layers-{canvas.name}-{salt}"
    lanes = [*(op for op in OPS if any(row.op == op for row in layers)), *sorted({r.op for r in layers} - set(OPS))]
    with matplotlib.rc_context(svg.style()), svg.quiet():
        drawn = svg.figure(canvas.width, max(canvas.height, 70 + 34 * len(lanes)))
        axes = drawn.subplots()
        bars = axes.bar(
            range(1, len(layers) + 1),
            [0.78 * min(_bits(row.precision), 32) / 32 for row in layers],
            0.82,
            bottom=[len(lanes) - 1 - lanes.index(row.op) for row in layers],
            color=[COLOURS[_family(row.precision)] for row in layers],
        )
        for number, bar in enumerate(bars):
            bar.set_gid(f"{name}-{number}")
        _dress_lanes(drawn, axes, lanes, artifact.precision)
        told = {f"{name}-{number}": f"{row.layer}: {row.precision.upper()}" for number, row in enumerate(layers)}
        shares = "; ".join(f"{op}: {wording.share(artifact.precision.int8_share(op))} in INT8" for op in lanes)
        return svg.inline(drawn, name, f"Precision of each layer in the built artifact. {shares}.", told)


def _comparable(points: Sequence[Candidate]) -> list[Candidate]:
    """The points worth an axis: one that collapsed (a cut network before it recovers) would flatten all others."""
    best = max(_measured(row)[1].percent for row in points)
    near = [row for row in points if _measured(row)[1].percent > best - COLLAPSE]
    return near if len(near) > 1 else list(points)


def _draw_point(axes: Any, row: Candidate, number: int, points: Sequence[Candidate], name: str) -> float:
    """Draw one candidate with both intervals and give the radius of its marker, in pixels."""
    latency, accuracy = _measured(row)
    area = LARGEST_MARKER * row.artifact.size_bytes / max(point.artifact.size_bytes for point in points)
    low, high = wilson(accuracy)
    x, y, colour = latency.p50_ms, accuracy.percent, _series(number)
    axes.errorbar(
        x,
        y,
        xerr=[[max(x - latency.p50_low_ms, 0)], [max(latency.p50_high_ms - x, 0)]],
        yerr=[[y - low], [high - y]],
        fmt="none",
        ecolor=colour,
        elinewidth=1.2,
        alpha=0.8,
    )
    axes.scatter(x, y, s=area, color=colour, alpha=0.85, linewidths=0, zorder=3, gid=f"{name}-{number}")
    return float((area / 3.141592653589793) ** 0.5)


def _draw_front(axes: Any, points: Sequence[Candidate]) -> None:
    """Join the candidates that no other beats in both accuracy and latency."""
    places = sorted((latency.p50_ms, -accuracy.percent) for latency, accuracy in map(_measured, points))
    front: list[tuple[float, float]] = []
    for x, minus_y in places:
        if not front or -minus_y > front[-1][1]:
            front.append((x, -minus_y))
    axes.plot(*zip(*front, strict=True), color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 3)), zorder=1)


def _write_names(drawn: Any, axes: Any, points: Sequence[Candidate], radii: Sequence[float]) -> None:
    drawn.draw_without_rendering()  # the layout must stand before a place in it can be found
    pixels = []
    for latency, accuracy in map(_measured, points):
        x, y = axes.transData.transform((latency.p50_ms, accuracy.percent))
        pixels.append((float(x), float(y)))
    box = axes.get_window_extent()
    frame = Box(box.x0, box.y0, box.x1, box.y1)
    names = [_short(row.name) for row in points]
    for name, corner in zip(names, place(pixels, radii, names, frame, size=12), strict=True):
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


def _draw_steps(axes: Any, row: LatencyRow, number: int, gid: str, text: str) -> None:
    ordered = sorted(row.ecdf_ms)
    last = len(ordered) - 1
    kept = sorted({round(step * last / ECDF_POINTS) for step in range(ECDF_POINTS + 1)}) if last else [0]
    shares = [100 * place / last if last else 100.0 for place in kept]
    dash = "-" if number < 8 else (0, (4, 2))
    axes.plot(
        [ordered[place] for place in kept], shares, color=_series(number), lw=1.8, ls=dash, gid=gid, label=_short(text)
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


def _dress_lanes(drawn: Any, axes: Any, lanes: Sequence[str], precision: PrecisionReport) -> None:
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    shares = [f"{op}\n{wording.share(precision.int8_share(op))} INT8" for op in reversed(lanes)]
    axes.set_yticks([lane + 0.39 for lane in range(len(lanes))], shares)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    for lane in range(len(lanes)):
        axes.axhline(lane, color=COLOURS["hairline"], linewidth=1, zorder=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set(xlabel="layer, in the order of the graph", ylim=(-0.05, len(lanes)))
    axes.set_xlim(0.3, len(precision.layers) + 0.7)
    used = sorted({row.precision for row in precision.layers}, key=lambda text: (_bits(text), text))
    patches = [Patch(color=COLOURS[_family(text)], label=text.upper()) for text in used]
    drawn.legend(handles=patches, loc="outside upper right", ncols=4, handlelength=0.9, handleheight=0.9, fontsize=11)


def _short(name: str) -> str:
    """A name that fits into a plot on a phone; the tooltip has all of it."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _series(number: int) -> str:
    return COLOURS[f"series-{number % 8}"]


def _bits(precision: str) -> int:
    """Bits in a precision's name, 32 where it has none."""
    digits = "".join(filter(str.isdigit, precision))
    return int(digits) if digits else 32


def _family(precision: str) -> str:
    bits, floating = _bits(precision), "f" in precision.lower()
    if not floating and bits <= 8:
        return "int8"
    return {16: "half", 32: "fp32"}.get(bits, "other") if floating else "other"
