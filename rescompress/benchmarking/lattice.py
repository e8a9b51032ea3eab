"""Widths between measured widths: a layer's latency is bilinear in its channels, as are its multiply-accumulates."""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from rescompress.benchmarking.layers import LayerShape

MOST_WIDTHS = 4
"""Widths a side that are measured where more pairs are asked for than they make."""

Widths = tuple[int, int]


@dataclass(frozen=True)
class Lattice:
    """The measured widths of layers that differ in their widths only.

    Attributes:
        ins: input widths, rising.
        outs: output widths, rising.
    """

    ins: tuple[int, ...]
    outs: tuple[int, ...]

    def between(self, at: Widths, seconds: Callable[[Widths], float]) -> float:
        """Bilinear between the four measured pairs around one; outside, the nearest two lines go on.

        Args:
            at: input and output width.
            seconds: time of a measured pair.
        """
        total = 0.0
        for a, share in _corners(self.ins, at[0]):
            for b, other in _corners(self.outs, at[1]):
                total += share * other * seconds((a, b)) if share * other else 0.0
        return total

    @property
    def pairs(self) -> tuple[Widths, ...]:
        """Every pair that is measured."""
        return tuple((a, b) for a in self.ins for b in self.outs)


def kind(shape: LayerShape) -> LayerShape:
    """The layer without its widths; of a grouped layer, without the count of its groups."""
    if shape.groups == 1:
        return replace(shape, in_channels=1, out_channels=1)
    return replace(shape, in_channels=_of(shape, "in_channels"), out_channels=_of(shape, "out_channels"), groups=2)


def widths(shape: LayerShape) -> Widths:
    """Input and output channels; of a grouped layer, whose widths go together, the count of its groups."""
    return (shape.in_channels, shape.out_channels) if shape.groups == 1 else (shape.groups, 0)


def widened(of_kind: LayerShape, at: Widths) -> LayerShape:
    """The layer of a kind that has these widths."""
    if of_kind.groups == 1:
        return replace(of_kind, in_channels=at[0], out_channels=at[1])
    ins, outs = (at[0] * size for size in (of_kind.in_channels, of_kind.out_channels))
    return replace(of_kind, in_channels=ins, out_channels=outs, groups=at[0])


def chosen(asked: Collection[Widths]) -> Lattice | None:
    """The lattice to measure for so many pairs of widths; None where measuring just those is as quick."""
    lattice = Lattice(_spread({a for a, _ in asked}), _spread({b for _, b in asked}))
    return None if len(asked) <= len(lattice.pairs) else lattice


def _of(shape: LayerShape, side: str) -> int:
    """Channels of one group."""
    return int(getattr(shape, side)) // shape.groups


def _spread(values: Iterable[int]) -> tuple[int, ...]:
    """The smallest, the largest and evenly chosen ones between them."""
    rising = sorted(set(values))
    if len(rising) <= MOST_WIDTHS:
        return tuple(rising)
    last = len(rising) - 1
    return tuple(rising[round(i * last / (MOST_WIDTHS - 1))] for i in range(MOST_WIDTHS))


def _corners(known: Sequence[int], at: int) -> tuple[tuple[int, float], ...]:
    """The two known widths around one, each with its share."""
    if len(known) == 1:
        return ((known[0], 1.0),)
    right = min(max(bisect_right(known, at), 1), len(known) - 1)
    low, high = known[right - 1], known[right]
    share = (at - low) / (high - low)
    return ((low, 1 - share), (high, share))
