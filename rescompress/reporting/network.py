"""A network as one SVG: a bar for each layer, as long as its MACs and coloured by its sensitivity to INT8."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from rescompress.reporting import wording
from rescompress.reporting.drawing import WIDE, Sheet, framed, rect, short, text
from rescompress.reporting.panels import ADD, GAP, HEAD, PAD, ROW, Panel, columns, edges_db, heat, panels
from rescompress.views import Finding, Inspection, LayerView

RAIL, SKIP, TEXT, NUMBER, BETWEEN = 29, 14, 46, 52, 20
"""Where a column has its line, its shortcuts and its names, the room for its numbers, and what parts two columns."""
MARGIN = 24
GLYPH, BOLD = 6.4, 7.0
"""Mean widths of glyphs at 11 pixels, generous, because the browser chooses the font."""


STYLE = """
.network text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: var(--ink);
  stroke: none; font-variant-numeric: tabular-nums; }
.network .quiet { fill: var(--muted); }
.network .title { font-weight: 600; }
.network .line { fill: none; stroke: var(--muted); stroke-width: 1.4; stroke-opacity: 0.7; }
.network .skip { fill: none; stroke: var(--accent); stroke-width: 1.7; }
.network .fixed { stroke-dasharray: 3 3; }
.network .node { fill: var(--paper); }
.network .mark { font-weight: 700; font-size: 10px; fill: var(--paper); }
"""


@dataclass(frozen=True)
class Key:
    """What colours, lengths and marks mean.

    Attributes:
        edges_db: where the colours change.
        longest: MACs of the longest bar.
        marks: of each layer, what is found about it.
        about: what sensitivity is.
    """

    edges_db: tuple[float, ...]
    longest: int
    marks: dict[str, tuple[Finding, ...]]
    about: str


@dataclass(frozen=True)
class Column:
    """Where a column begins, and how wide it is."""

    x: float
    width: float

    @property
    def bar(self) -> float:
        """Left end of the bars."""
        return self.x + TEXT + max(84.0, 0.3 * self.width)

    @property
    def room(self) -> float:
        """Length of the longest bar."""
        return self.x + self.width - NUMBER - 12 - self.bar


def draw(found: Inspection, sheet: Sheet) -> str:
    """The picture as an ``<svg>`` element whose colours are variables of the page around it.

    Blocks follow each other from top to bottom, column by column, along one line; a shortcut leaves that line at a
    block's top and comes back at its add. Equal inspections give equal bytes.
    """
    drawn, height = _drawn(found, sheet)
    return framed([f"<style>{STYLE}</style>", *drawn], f"0 0 {sheet.width} {height}", _label(found), "network")


def standalone(found: Inspection) -> str:
    """The picture as a file of its own, which follows the reader's light or dark."""
    palette = (Path(__file__).parent / "palette.css").read_text("utf-8").replace(":root", ".network")
    drawn, height = _drawn(found, WIDE)
    width, height = WIDE.width + 2 * MARGIN, height + 2 * MARGIN
    ground = rect(-MARGIN, -MARGIN, width, height, "var(--paper)", radius=0)
    parts = [f"<style>\n{palette}{STYLE}</style>", ground, *drawn]
    return framed(parts, f"{-MARGIN} {-MARGIN} {width} {height}", _label(found), "network") + "\n"


def _label(found: Inspection) -> str:
    return f"The network layer by layer: {len(found.layers)} layers, {len(found.blocks)} residual blocks."


def _drawn(found: Inspection, sheet: Sheet) -> tuple[list[str], int]:
    """Everything in the picture, and how high it is."""
    key = _key(found)
    parts, top = _legend(key, sheet)
    filled = columns(panels(found), sheet.columns)
    width = (sheet.width - BETWEEN * (len(filled) - 1)) / max(1, len(filled))
    bottom = float(top)
    for number, column in enumerate(filled):
        drawn, end = _column(column, Column(number * (width + BETWEEN), width), key, top + 16)
        parts += drawn
        bottom = max(bottom, end)
    return parts, round(bottom) + 8


def _key(found: Inspection) -> Key:
    marks: dict[str, list[Finding]] = {}
    for finding in found.findings:
        for name in finding.layers if finding.severity != "note" else ():
            marks.setdefault(name, []).append(finding)
    return Key(
        edges_db=edges_db(found),
        longest=max((layer.macs for layer in found.layers), default=1) or 1,
        marks={name: tuple(findings) for name, findings in marks.items()},
        about="SQNR of output, one layer in INT8" if found.images else "SQNR of the weights in INT8",
    )


def _legend(key: Key, sheet: Sheet) -> tuple[list[str], int]:
    """What colours, lengths and marks mean, and where it ends."""
    drawn, step = [text(0, 10, f"Colour: {key.about}, dB", "title")], 38
    for place in range(len(key.edges_db) + 1):
        drawn.append(rect(place * step, 18, step - 2, 10, f"var(--heat-{place})"))
    for place, edge in enumerate(key.edges_db, 1):
        drawn.append(text(place * step - 1, 41, f"{edge:g}", "quiet", "middle"))
    drawn.append(text((len(key.edges_db) + 1) * step + 10, 27, "robust to sensitive", "quiet"))
    x, y = (420, 10) if sheet.width > 600 else (0, 64)
    drawn.append(text(x, y, "Bar: MACs", "title"))
    drawn.append(text(x, y + 17, f"longest {wording.count(key.longest)}", "quiet"))
    x, y = (560, 10) if sheet.width > 600 else (110, 64)
    drawn.append(text(x, y, "Shortcut", "title"))
    for number, (kind, name) in enumerate((("", "identity or projection"), ("fixed", "fixed weights"))):
        drawn.append(f'<path class="skip {kind}" d="M{x} {y + 13 + 16 * number}h18"/>')
        drawn.append(text(x + 24, y + 17 + 16 * number, name, "quiet"))
    x, y = (760, 10) if sheet.width > 600 else (0, 116)
    drawn += [text(x, y, "Mark", "title"), *_mark(x + 6, y + 13, "warning")]
    drawn.append(text(x + 18, y + 17, "something will hurt", "quiet"))
    return drawn, 56 if sheet.width > 600 else 142


def _column(found: Sequence[Panel], column: Column, key: Key, top: float) -> tuple[list[str], float]:
    """The panels of one column on the line through them, and where it ends."""
    x, y = column.x + RAIL, top
    grounds, drawn = [], []
    for panel in found:
        if panel.block:
            grounds.append(rect(column.x, y, column.width, panel.height, "var(--page)", radius=8))
        drawn += _panel(panel, column, key, y)
        y += panel.height + GAP
    end = y - GAP + 12
    line = f'<path class="line" d="M{x:.1f} {top - 10:.1f}V{end:.1f}m-4 -5l4 5l4 -5"/>'
    return [*grounds, line, *drawn], end


def _panel(panel: Panel, column: Column, key: Key, y: float) -> list[str]:
    drawn: list[str] = []
    block, head = panel.block, HEAD if panel.block else 0
    if block:
        shape = wording.TIMES.join(map(str, block.output_shape))
        room = (column.width - TEXT - 24 - GLYPH * len(f"{block.kind} {shape}")) / BOLD
        drawn.append(text(column.x + TEXT, y + 17, short(block.name, int(room)), "title"))
        drawn.append(text(column.x + column.width - 12, y + 17, f"{block.kind} {shape}", "quiet", "end"))
        drawn += _shortcut(panel, column, y)
    aside = set(block.shortcut_layers) if block else set()
    for number, layer in enumerate(panel.layers):
        drawn += _row(layer, column, key, y + head + ROW * number, layer.layer in aside)
    return drawn


def _shortcut(panel: Panel, column: Column, y: float) -> list[str]:
    """The way around a block, and the add where it ends."""
    assert panel.block
    line, around = column.x + RAIL, column.x + SKIP
    end = y + panel.height - PAD - ADD / 2
    kind = "skip fixed" if panel.block.shortcut == "fixed" else "skip"
    bend = f"C{line:.1f} {y + 17:.1f} {around:.1f} {y + 13:.1f} {around:.1f} {y + 28:.1f}"
    back = f"Q{around:.1f} {end:.1f} {line - 7:.1f} {end:.1f}"
    return [
        f'<path class="{kind}" d="M{line:.1f} {y + 2:.1f}{bend}V{end - 11:.1f}{back}"/>',
        f'<circle class="node skip" style="fill:var(--paper)" cx="{line:.1f}" cy="{end:.1f}" r="6.5"/>',
        f'<path class="skip" d="M{line - 3.5:.1f} {end:.1f}h7m-3.5 -3.5v7"/>',
        text(column.x + TEXT, end + 4, f"add, {panel.block.shortcut} shortcut", "quiet"),
    ]


def _row(layer: LayerView, column: Column, key: Key, y: float, aside: bool) -> list[str]:
    """One layer: its node on the line or on the shortcut, name, bar, MACs, and a mark where something will hurt."""
    level = heat(layer.sqnr_db, key.edges_db)
    colour = "var(--fp32)" if level is None else f"var(--heat-{level})"
    x, middle = column.x + (SKIP if aside else RAIL), y + ROW / 2
    marks = key.marks.get(layer.layer, ())
    length = max(1.5, column.room * layer.macs / key.longest)
    inside = layer.layer.removeprefix(f"{layer.block}.") if layer.block else layer.layer
    room = (column.bar - column.x - TEXT - (18 if marks else 4)) / GLYPH
    told = " ".join([_told(layer), *(finding.fact for finding in marks)])
    drawn = [
        f'<g class="layer"><title>{escape(told)}</title>',
        rect(column.x + TEXT - 4, y, column.width - TEXT - 4, ROW, "transparent"),
        f'<rect class="node {"skip" if aside else "line"}" style="fill:{colour};stroke-opacity:1" '
        f'x="{x - 4.5:.1f}" y="{middle - 4.5:.1f}" width="9" height="9" rx="2"/>',
        text(column.x + TEXT, middle + 4, short(inside, int(room))),
        rect(column.bar, middle - 6, length, 12, colour, radius=2),
        text(column.x + column.width - 12, middle + 4, wording.count(layer.macs), "quiet", "end"),
    ]
    if marks:
        drawn += _mark(column.bar - 11, middle, marks[0].severity)
    return [*drawn, "</g>"]


def _mark(x: float, y: float, severity: str) -> list[str]:
    colour = "var(--bad)" if severity == "error" else "var(--warn)"
    return [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colour}"/>', text(x, y + 3.6, "!", "mark", "middle")]


def _told(layer: LayerView) -> str:
    """All of a layer in one sentence."""
    kernel = f" {wording.TIMES.join(map(str, layer.kernel))}" if layer.kernel else ""
    shape = wording.TIMES.join(map(str, layer.output_shape))
    sqnr = "unknown" if layer.sqnr_db is None else wording.decibels(layer.sqnr_db)
    return (
        f"{layer.layer}: {layer.op}{kernel} to {shape}, {wording.count(layer.params)} parameters, "
        f"{wording.count(layer.macs)} MACs, SQNR {sqnr}."
    )
