"""Pieces of SVG that is drawn by hand, a tenth as long as a plotting library's: rectangles, texts, lines, frames."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr


@dataclass(frozen=True)
class Sheet:
    """How wide a picture is, in CSS pixels, and of how many columns at most."""

    width: int
    columns: int = 1


WIDE, NARROW = Sheet(1060, 3), Sheet(330, 1)


def framed(parts: Sequence[str], box: str, label: str, kind: str) -> str:
    """The ``<svg>`` around its parts.

    Args:
        parts: what is in it.
        box: its ``viewBox``.
        label: what a screen reader says of the whole picture.
        kind: its class.
    """
    head = f'<svg class="{kind}" xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img"'
    return "\n".join([f"{head} aria-label={quoteattr(label)}>", *parts, "</svg>"])


def rect(x: float, y: float, width: float, height: float, fill: str, radius: float = 1) -> str:
    """A filled rectangle by its upper left corner."""
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {size} rx="{radius:g}" fill="{fill}"/>'


def text(x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text from, around or up to a point on its base line."""
    where = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{where}>{escape(said)}</text>'


def told(title: str, parts: Sequence[str], kind: str) -> str:
    """Parts that a pointer reads a title over."""
    return f'<g class="{kind}"><title>{escape(title)}</title>{"".join(parts)}</g>'


def short(name: str, most: int) -> str:
    """The end of a name that is too long: it says more than the beginning."""
    return name if len(name) <= most else f"…{name[1 - max(2, most) :]}"


def round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 and 10 times a power of ten that is no smaller; 1 where nothing is to be shown."""
    if not 0 < value < math.inf:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))


def ticks(end: float, most: int) -> tuple[float, ...]:
    """Round numbers from 0 to at most the end, and at most so many of them beside 0."""
    step = round_up(end / max(1, most))
    return tuple(step * number for number in range(int(end / step + 1e-9) + 1))
