"""Where the names of points go in a plot, so that no name covers a point or another name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
GLYPH = 0.62  # mean width of a glyph, in font sizes; generous, because the browser chooses the font


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """Area that both cover, in square pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return (self.right - self.left) * (self.top - self.bottom)


def place(
    points: Sequence[Point], radii: Sequence[float], names: Sequence[str], frame: Box, size: float
) -> tuple[Point, ...]:
    """Greedily give each name, in turn, the nearest place beside its point that covers the least.

    Args:
        points: centres of the markers, in pixels.
        radii: their radii, in pixels.
        names: what is written beside each.
        frame: where the names must stay.
        size: font size, in pixels.

    Returns:
        the lower left corner of each name, in pixels.
    """
    taken = [Box(x - r, y - r, x + r, y + r) for (x, y), r in zip(points, radii, strict=True)]
    corners = []
    for point, radius, name in zip(points, radii, names, strict=True):
        width = len(name) * size * GLYPH
        choices = list(_around(point, radius, width, size))
        best = min(choices, key=lambda box: _cost(box, taken, frame))
        taken.append(best)
        corners.append((best.left, best.bottom))
    return tuple(corners)


def _around(point: Point, radius: float, width: float, height: float) -> Iterator[Box]:
    """Places for a name, best first: right, left, above, below, then the corners, then all of it farther out."""
    x, y = point
    for gap in (radius + 4, radius + 14, radius + 28, radius + 46):
        slant = gap * 0.7
        for left, bottom in (
            (x + gap, y - height / 2),
            (x - gap - width, y - height / 2),
            (x - width / 2, y + gap),
            (x - width / 2, y - gap - height),
            (x + slant, y + slant),
            (x - slant - width, y + slant),
            (x + slant, y - slant - height),
            (x - slant - width, y - slant - height),
        ):
            yield Box(left, bottom, left + width, bottom + height)


def _cost(box: Box, taken: Sequence[Box], frame: Box) -> float:
    outside = box.area - box.overlap(frame)
    return 3 * outside + sum(box.overlap(other) for other in taken)
