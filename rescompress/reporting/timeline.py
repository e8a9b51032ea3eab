"""Every block of a benchmark over the time that it took: a lane for each candidate, on which drift and bursts show."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rescompress.reporting import wording
from rescompress.reporting.drawing import WIDE, Sheet, framed, rect, short, text, ticks, told
from rescompress.reporting.verdict import stage_of, stages_of, timed_names
from rescompress.spec import BenchmarkRow, LatencyRow

TOP, LANE, FOOT = 30, 34, 34
NAME = 16
"""Height of a name that stands above its lane, where there is no room beside it."""
GLYPH = 6.6
MOST_NAME = 32
MINUS = "\N{MINUS SIGN}"
SPANS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
INSIDE = 0.98
"""The share of all blocks that the lanes must be high enough for; the others are marked at the edge."""

Point = tuple[float, float]


def draw(timing: BenchmarkRow, sheet: Sheet) -> str | None:
    """The median of each block against its candidate's own p50; None where the blocks weren't kept."""
    rows = [(name, row) for name, row in zip(timed_names(timing), timing.latencies, strict=True) if row.blocks]
    if not rows:
        return None
    longest = max(len(name) for name, _ in rows)
    scale, stages = _scale([row for _, row in rows], longest, sheet), stages_of(timing.latencies)
    pitch = LANE + 8 if sheet == WIDE else LANE + NAME + 8
    height = TOP + pitch * len(rows) + FOOT
    drawn = _launches(scale, [row for _, row in rows], timing.launches, height)
    for number, (name, row) in enumerate(rows):
        middle = TOP + pitch * (number + 1) - LANE / 2 - 4
        found = _Named(name, row, stages.index(stage_of(row)), _chunks(row.blocks, timing.launches))
        drawn += _lane(scale, found, middle, sheet)
    drawn += _axis(scale, height)
    if sheet == WIDE:
        drawn.append(text(scale.right + 10, TOP - 14, "varies by", "quiet"))
    worst = max(rows, key=lambda found: found[1].cov)
    label = (
        f"Medians of the blocks of {len(rows)} artifacts over {scale.seconds:.0f} seconds and {timing.launches} "
        f"launches. The least steady is {worst[0]}: its blocks vary by {100 * worst[1].cov:.1f} %."
    )
    return framed(drawn, f"0 0 {sheet.width} {height}", label, "lanes")


def span(rows: Sequence[LatencyRow]) -> float:
    """Half the height of a lane, as a share of the median."""
    apart = sorted(abs(ms / row.p50_ms - 1) for row in rows for _, ms in row.blocks)
    needed = apart[min(len(apart) - 1, int(INSIDE * len(apart)))]
    return next((one for one in SPANS if one >= needed), SPANS[-1])


@dataclass(frozen=True)
class _Scale:
    left: float
    right: float
    seconds: float
    span: float

    def x(self, second: float) -> float:
        return self.left + (self.right - self.left) * second / self.seconds

    def y(self, middle: float, share: float) -> float:
        return middle - LANE / 2 * max(-1.0, min(1.0, share / self.span))


@dataclass(frozen=True)
class _Named:
    """A candidate with its name, its colour, and its blocks by launch."""

    name: str
    row: LatencyRow
    series: int
    chunks: Sequence[Sequence[Point]]


def _scale(rows: Sequence[LatencyRow], longest: int, sheet: Sheet) -> _Scale:
    left, right = (50 + GLYPH * min(longest, MOST_NAME), sheet.width - 84) if sheet == WIDE else (38, sheet.width - 4)
    last = max(second for row in rows for second, _ in row.blocks)
    return _Scale(left, right, max(last * 1.005, 1e-9), span(rows))


def _lane(scale: _Scale, found: _Named, middle: float, sheet: Sheet) -> list[str]:
    """One candidate: its name, its blocks, and how much they vary."""
    varied = f"± {100 * found.row.cov:.1f} %"
    drawn = [
        rect(scale.left, middle - LANE / 2, scale.right - scale.left, LANE, "var(--page)", 3),
        rect(scale.left, middle - 0.4, scale.right - scale.left, 0.8, "var(--hairline)", 0),
    ]
    if sheet == WIDE:
        drawn.append(text(scale.left - 44, middle + 4, short(found.name, MOST_NAME), "", "end"))
        drawn.append(text(scale.right + 10, middle + 4, varied, "quiet"))
    else:
        drawn.append(text(0, middle - LANE / 2 - 5, short(found.name, int(230 / GLYPH)), ""))
        drawn.append(text(scale.right, middle - LANE / 2 - 5, varied, "quiet", "end"))
    for sign, share in (("+", scale.span), (MINUS, -scale.span)):
        y = scale.y(middle, share) + (9 if share > 0 else 0)
        drawn.append(text(scale.left - 4, y, f"{sign}{100 * scale.span:g} %", "quiet tiny", "end"))
    return [*drawn, _trace(scale, found, middle)]


def _trace(scale: _Scale, found: _Named, middle: float) -> str:
    """The blocks, joined within each launch, and marks for those that the lane can't hold."""
    row = found.row
    path = "".join(_path(scale, row, middle, chunk) for chunk in found.chunks)
    lines = [f'<path class="trace" style="stroke:var(--series-{found.series % 8})" d="{path}"/>']
    for second, ms in row.blocks:
        share = ms / row.p50_ms - 1
        if abs(share) > scale.span:
            place = f'cx="{scale.x(second):.1f}" cy="{scale.y(middle, share):.1f}"'
            lines.append(f'<circle {place} r="2.6" fill="var(--bad)"/>')
    varied = f"{len(row.blocks)} blocks, coefficient of variation {100 * row.cov:.1f} %"
    return told(f"{found.name}: p50 {wording.real(row.p50_ms)} ms, {varied}", lines, "blocks")


def _path(scale: _Scale, row: LatencyRow, middle: float, chunk: Sequence[Point]) -> str:
    """The blocks of one launch, joined; one block alone is a dot."""
    points = [f"{scale.x(second):.1f} {scale.y(middle, ms / row.p50_ms - 1):.1f}" for second, ms in chunk]
    return f"M{'L'.join(points)}" if len(points) > 1 else f"M{points[0]}h0"


def _chunks(blocks: Sequence[Point], launches: int) -> list[Sequence[Point]]:
    """The blocks of each launch: every launch has as many; what can't be shared out so is one chunk."""
    many = len(blocks) // max(1, launches)
    if not many or len(blocks) % launches:
        return [blocks]
    return [blocks[start : start + many] for start in range(0, len(blocks), many)]


def _ends(rows: Sequence[LatencyRow], launches: int) -> Iterator[tuple[float, float]]:
    """When the first block of each launch was timed, and when its last."""
    shared = [_chunks(row.blocks, launches) for row in rows]
    if {len(chunks) for chunks in shared} == {launches}:
        for of_launch in zip(*shared, strict=True):
            seconds = [second for chunk in of_launch for second, _ in chunk]
            yield min(seconds), max(seconds)


def _launches(scale: _Scale, rows: Sequence[LatencyRow], launches: int, height: float) -> list[str]:
    """A line where one launch ends and the next begins, and each launch's number above."""
    drawn, before = [], 0.0
    ends = list(_ends(rows, launches))
    for number, (first, last) in enumerate(ends, 1):
        if number > 1:
            x = scale.x((before + first) / 2)
            drawn.append(f'<path class="launch" d="M{x:.1f} {TOP - 8}V{height - FOOT + 4:.1f}"/>')
        room = (scale.right - scale.left) / len(ends)
        name = f"launch {number}" if room > 9 * GLYPH else str(number)
        drawn.append(text((scale.x(first) + scale.x(last)) / 2, TOP - 14, name, "quiet", "middle"))
        before = last
    return drawn


def _axis(scale: _Scale, height: float) -> list[str]:
    places = ticks(scale.seconds, 8 if scale.right - scale.left > 400 else 4)
    drawn = [text(scale.x(second), height - FOOT + 18, f"{second:g}", "quiet", "middle") for second in places]
    return [*drawn, text(scale.right, height - 2, "seconds since the first block", "quiet", "end")]
