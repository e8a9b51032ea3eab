"""What is known of each layer of one artifact, side by side: its time, its bits, and how sensitive it is to INT8."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rescompress.reporting import wording
from rescompress.reporting.drawing import WIDE, Sheet, framed, rect, round_up, text, told
from rescompress.reporting.panels import OUTPUT_EDGES_DB, WEIGHT_EDGES_DB, heat
from rescompress.reporting.verdict import Candidate
from rescompress.spec import LayerPrecision, RunReport
from rescompress.timing import ProfileRow

TOP, LANE, BETWEEN, FOOT = 26, 74, 30, 34
"""Heights in pixels: above the first lane, of a lane's highest bar, between two lanes, and of the names below."""
DEEPEST = 3
GLYPH = 6.6
FLOAT_BITS = 32
ROBUST_DB, FRAGILE_DB = 60.0, 10.0
"""Where a bar of sensitivity is empty, and where it is full."""


@dataclass(frozen=True)
class Layer:
    """One layer of an artifact; None where nobody told.

    Attributes:
        precision: as the runtime computes it; empty where it lists no layers.
        ms: of one query, under the runtime's profiler.
        within: the layer whose kernel computes this one along the way; empty where it has one of its own.
        sqnr_db: what INT8 leaves of the signal, in dB: little where the layer is sensitive.
    """

    layer: str
    op: str
    precision: str
    ms: float | None
    sqnr_db: float | None
    within: str = ""


@dataclass(frozen=True)
class Layers:
    """All layers of one artifact in order of execution.

    Attributes:
        timed_by: who told the times; empty where nobody did.
        elsewhere_ms: time that belongs to no layer in the list.
        sensitivity: what the decibels compare; empty where there are none.
        edges_db: where their colours change.
    """

    name: str
    rows: tuple[Layer, ...]
    timed_by: str
    elsewhere_ms: float
    sensitivity: str
    edges_db: tuple[float, ...]


def gather(report: RunReport, candidate: Candidate) -> Layers:
    """Bring together what the audit, the profiler and the inspection know of an artifact's layers."""
    artifact, profile = candidate.artifact, _profile(report, candidate)
    times = {one.layer: one.ms for one in profile.layers} if profile else {}
    known = artifact.precision.layers
    if not known and profile:
        known = tuple(LayerPrecision(one.layer, one.op, "") for one in profile.layers if one.layer)
    about, found_db, edges_db = _sensitivity(report, candidate)
    within = {fused: one.layer for one in profile.layers for fused in one.fused} if profile else {}
    rows = tuple(
        Layer(
            row.layer, row.op, row.precision, times.get(row.layer), found_db.get(row.layer), within.get(row.layer, "")
        )
        for row in known
    )
    names = {row.layer for row in known}
    elsewhere = sum(one.ms for one in profile.layers if one.layer not in names) if profile else 0.0
    timed_by = profile.source if profile and any(row.ms is not None for row in rows) else ""
    about = about if any(row.sqnr_db is not None for row in rows) else ""
    return Layers(candidate.name, rows, timed_by, elsewhere, about, edges_db)


def draw(found: Layers, sheet: Sheet) -> str | None:
    """Lanes of bars, a column for each layer; None without layers. A lane of which nothing is known is left out."""
    if not found.rows:
        return None
    left = 62 if sheet == WIDE else 40
    step = (sheet.width - left - 2) / len(found.rows)
    lanes = [lane for lane in (_times(found), _bits(found), _decibels(found)) if lane is not None]
    bases = [TOP + number * (LANE + BETWEEN) + LANE for number in range(len(lanes))]
    height = bases[-1] + FOOT if bases else TOP + FOOT
    drawn = _names(found.rows, left, step, height)
    for lane, base in zip(lanes, bases, strict=True):
        drawn += _frame(lane, left, base, sheet)
    for place, row in enumerate(found.rows):
        x = left + step * place
        column = [rect(x, TOP - 4, step, height - FOOT - TOP + 8, "transparent", 0)]
        for lane, base in zip(lanes, bases, strict=True):
            column += _bar(lane.bars[place], x, step, base)
        drawn.append(told(_told(row), column, "layer"))
    said = ", ".join(lane.title for lane in lanes)
    label = f"The {len(found.rows)} layers of {found.name} in order of execution. From top to bottom: {said}."
    return framed(drawn, f"0 0 {sheet.width} {height}", label, "lanes")


@dataclass(frozen=True)
class _Lane:
    """Bars from 0 to 1 with their colours, what they are, and marks on their axis."""

    title: str
    bars: tuple[tuple[float, str] | None, ...]
    marks: tuple[tuple[float, str], ...]
    key: tuple[tuple[str, str], ...] = ()


def _times(found: Layers) -> _Lane | None:
    if not found.timed_by:
        return None
    longest = round_up(max(row.ms for row in found.rows if row.ms is not None))
    bars = tuple(None if row.ms is None else (row.ms / longest, "series-3") for row in found.rows)
    return _Lane("time, ms", bars, ((0, "0"), (0.5, f"{longest / 2:g}"), (1, f"{longest:g}")))


def _bits(found: Layers) -> _Lane | None:
    if not any(row.precision for row in found.rows):
        return None
    bars = tuple((min(bits(row.precision), FLOAT_BITS) / FLOAT_BITS, family(row.precision)) for row in found.rows)
    used = sorted({row.precision for row in found.rows}, key=lambda name: (bits(name), name))
    key = tuple((family(name), name.upper()) for name in used)
    return _Lane("bits", bars, tuple((number / FLOAT_BITS, str(number)) for number in (8, 16, 32)), key)


def _decibels(found: Layers) -> _Lane | None:
    if not found.sensitivity:
        return None
    span = ROBUST_DB - FRAGILE_DB
    bars = tuple(
        None if row.sqnr_db is None else ((ROBUST_DB - row.sqnr_db) / span, f"heat-{heat(row.sqnr_db, found.edges_db)}")
        for row in found.rows
    )
    marks = tuple(((ROBUST_DB - level) / span, f"{level:g}") for level in (60.0, 40.0, 20.0))
    return _Lane("sensitivity, dB (higher loses more)", bars, marks)


def _bar(bar: tuple[float, str] | None, x: float, step: float, base: float) -> list[str]:
    if bar is None:
        return []
    high = max(1.0, LANE * max(0.0, min(1.0, bar[0])))
    return [rect(x + 0.09 * step, base - high, 0.82 * step, high, f"var(--{bar[1]})")]


def _frame(lane: _Lane, left: float, base: float, sheet: Sheet) -> list[str]:
    """A lane's title, key, base line and the marks of its axis."""
    drawn = [text(left, base - LANE - 10, lane.title, "title")]
    x = float(sheet.width)
    for colour, name in reversed(lane.key):
        x -= GLYPH * len(name) + 6
        drawn.append(text(x, base - LANE - 10, name, "quiet"))
        x -= 13
        drawn.append(rect(x, base - LANE - 19, 10, 10, f"var(--{colour})"))
        x -= 8
    for share, name in lane.marks:
        y = base - LANE * share
        drawn.append(rect(left, y - 0.4, sheet.width - left, 0.8, "var(--hairline)", 0))
        drawn.append(text(left - 6, y + 4, name, "quiet", "end"))
    return drawn


def _names(rows: Sequence[Layer], left: float, step: float, height: float) -> list[str]:
    """The parts of the network below their layers, with a line where one ends."""
    drawn, place = [], 0
    for name, group in groupby(sections([row.layer for row in rows])):
        many = len(list(group))
        x, width = left + step * place, step * many
        if place:
            drawn.append(rect(x - 0.5, TOP - 4, 1, height - FOOT - TOP + 8, "var(--hairline)", 0))
        if width > GLYPH * len(name):
            drawn.append(text(x + width / 2, height - FOOT + 22, name, "quiet", "middle"))
        place += many
    return drawn


def sections(names: Sequence[str]) -> tuple[str, ...]:
    """The part of the network that each layer belongs to: as much of its name as tells three of them apart."""
    for depth in range(1, DEEPEST + 1):
        found = tuple(".".join(name.split(".")[:depth]) for name in names)
        if len(set(found)) >= min(3, len(set(names))):
            break
    return found


def bits(precision: str) -> int:
    """Bits in a precision's name, 32 where it has none."""
    digits = re.search(r"\d+", precision)
    return int(digits[0]) if digits else FLOAT_BITS


def family(precision: str) -> str:
    """The colour that a precision has."""
    wide, floating = bits(precision), "f" in precision.lower()
    if not floating and wide <= 8:
        return "int8"
    return {16: "half", 32: "fp32"}.get(wide, "other") if floating else "other"


def _profile(report: RunReport, candidate: Candidate) -> ProfileRow | None:
    rows = report.benchmark.profiles if report.benchmark else ()
    own = (candidate.artifact.label, candidate.artifact.backend)
    return next((row for row in rows if (row.label, row.backend) == own), None)


def _sensitivity(report: RunReport, candidate: Candidate) -> tuple[str, dict[str, float], tuple[float, ...]]:
    """What is known of it, by layer: the inspection's, else what verifying saw of each layer's own error."""
    network = report.network
    if network is not None and (network.images or not candidate.artifact.verification.evidence.layers):
        found = {layer.layer: layer.sqnr_db for layer in network.layers if layer.sqnr_db is not None}
        if network.images:
            return "the output of the network with this layer alone in INT8", found, OUTPUT_EDGES_DB
        return "the weights of the layer in INT8", found, WEIGHT_EDGES_DB
    seen = candidate.artifact.verification.evidence.layers
    own = {row.layer.split(" to ")[-1]: row.own_db for row in seen if not math.isnan(row.own_db)}
    return "the output of the layer against eager PyTorch with the same input", own, OUTPUT_EDGES_DB


def _told(row: Layer) -> str:
    """All of a layer in one line."""
    facts = [row.precision.upper()] if row.precision else []
    facts += [f"computed with {row.within}"] if row.within else []
    facts += [] if row.ms is None else [f"{wording.real(row.ms)} ms"]
    facts += [] if row.sqnr_db is None else [wording.decibels(row.sqnr_db)]
    return f"{row.layer}: {', '.join(facts or [row.op])}"
