"""How a network's layers are laid out as a picture: blocks as panels, panels in columns of about equal height."""

from collections.abc import Sequence
from dataclasses import dataclass

from rescompress.views import BlockView, Inspection, LayerView

ROW, HEAD, ADD, PAD, GAP = 20, 26, 24, 6, 14
"""Heights in pixels: of a layer, a panel's title, its add, its ends, and what lies between two panels."""
SHORTEST = 260
"""A picture this low needs no second column."""
WEIGHT_EDGES_DB = (44.0, 40.0, 36.0, 32.0)
"""Uniform weights keep 48 dB of INT8 with a scale per channel, normal ones about 42, and each lost bit costs 6."""
OUTPUT_EDGES_DB = (50.0, 40.0, 30.0, 20.0)
"""The last is what verification demands of the output of the whole network in INT8."""


@dataclass(frozen=True)
class Panel:
    """Layers that are drawn together: those of a block with its shortcut's last, or some outside of any block."""

    block: BlockView | None
    layers: tuple[LayerView, ...]

    @property
    def height(self) -> int:
        """Of the whole panel, in pixels."""
        return ROW * len(self.layers) + (HEAD + ADD + PAD if self.block else 0)


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


def edges_db(found: Inspection) -> tuple[float, ...]:
    """Where the colours of sensitivity change, from robust to sensitive; the same for every network."""
    return OUTPUT_EDGES_DB if found.images else WEIGHT_EDGES_DB


def heat(sqnr_db: float | None, edges: Sequence[float]) -> int | None:
    """0 is robust and 4 is sensitive; None where nobody knows."""
    return None if sqnr_db is None else sum(sqnr_db < edge for edge in edges)


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
