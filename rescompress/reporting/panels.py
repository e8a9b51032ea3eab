"""How a network's layers are laid out as a picture: blocks as panels, panels in columns of about equal height."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

from rescompress.views import BlockView, Inspection, LayerView

ROW, HEAD, ADD, PAD, GAP = 20, 26, 24, 6, 14
"""Heights in pixels: of a layer, a panel's title, its add, its ends, and what lies between two panels."""
SHORTEST = 260
"""A picture this low needs no second column."""
HEATS = 5
NARROWEST_DB = 2.0
"""Layers whose SQNR differ by less than this are equally sensitive."""


@dataclass(frozen=True)
class Panel:
    """Layers that are drawn together: those of a block with its shortcut's last, or some outside of any block."""

    block: BlockView | None
    layers: tuple[LayerView, ...]

    @property
    def height(self) -> int:
        """Of the whole panel, in pixels."""
        return ROW * len(self.layers) + (HEAD + ADD + PAD if self.block else 0)


@dataclass(frozen=True)
class Scale:
    """Colours of sensitivity: ``edges_db`` falls from the most robust layer to the most sensitive one."""

    edges_db: tuple[float, ...]

    def heat(self, sqnr_db: float | None) -> int | None:
        """0 is robust and 4 is sensitive; None where nobody knows."""
        if sqnr_db is None:
            return None
        return sum(sqnr_db < edge for edge in self.edges_db[1:-1])


def panels(found: Inspection) -> tuple[Panel, ...]:
    """The panels in order of execution."""
    blocks = {block.name: block for block in found.blocks}
    gathered: dict[str, list[LayerView]] = {}
    outside = before = ""
    for layer in found.layers:
        if not layer.block and (before or not outside):
            outside = f" {layer.layer}"  # no block's name begins with a space
        before = layer.block
        gathered.setdefault(layer.block or outside, []).append(layer)
    made = []
    for name, layers in gathered.items():
        block = blocks.get(name)
        aside = set(block.shortcut_layers) if block else set()
        made.append(Panel(block, tuple(sorted(layers, key=lambda layer: layer.layer in aside))))
    return tuple(made)


def columns(found: Sequence[Panel], most: int) -> tuple[tuple[Panel, ...], ...]:
    """The panels in at most so many columns, in order, the longest column as short as it can be."""
    heights = [panel.height + GAP for panel in found]
    wanted = max(1, min(most, round(sum(heights) / SHORTEST)))
    low, high = max(heights, default=0), sum(heights)
    while low < high:
        middle = (low + high) // 2
        if len(_filled(found, middle)) <= wanted:
            high = middle
        else:
            low = middle + 1
    return _filled(found, low)


def scale(found: Inspection) -> Scale:
    """Equal steps from the most robust layer to the most sensitive one."""
    known = [layer.sqnr_db for layer in found.layers if layer.sqnr_db is not None and isfinite(layer.sqnr_db)]
    high, low = max(known, default=inf), min(known, default=inf)
    step = max(NARROWEST_DB, (high - low) / HEATS) if known else NARROWEST_DB
    return Scale(tuple(high - place * step for place in range(HEATS + 1)))


def _filled(found: Sequence[Panel], limit: int) -> tuple[tuple[Panel, ...], ...]:
    """Columns no longer than the limit, unless one panel is."""
    made: list[list[Panel]] = []
    left = 0
    for panel in found:
        if not made or panel.height + GAP > left:
            made.append([])
            left = limit
        made[-1].append(panel)
        left -= panel.height + GAP
    return tuple(tuple(column) for column in made)
