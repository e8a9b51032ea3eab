"""Which channels leave: the least important of each group, down to a width that runtimes like."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

from jaxtyping import Float
from torch import Tensor

from rescompress.pruning.groups import Group


@dataclass(frozen=True)
class Cut:
    """The channels of one group that stay, in ascending order."""

    group: Group
    kept: tuple[int, ...]


def plan(
    groups: Sequence[Group], scores: Sequence[Float[Tensor, " _"]], *, ratio: float, round_to: int
) -> tuple[Cut, ...]:
    """Keep the best-scored channels of each group; ties keep the lower channel.

    Args:
        groups: as ``find_groups`` gives them.
        scores: importance of each group's channels; larger is kept.
        ratio: fraction removed from each group, before rounding.
        round_to: what the number of kept channels is a multiple of.
    """
    cuts = []
    for group, score in zip(groups, scores, strict=True):
        step = lcm(round_to, group.width)
        cuts.append(best_of(group, score, rounded_width(group.channels * group.width, ratio, step) // group.width))
    return tuple(cuts)


def best_of(group: Group, score: Float[Tensor, " c"], kept: int) -> Cut:
    """Keep so many channels, the best-scored; ties keep the lower one."""
    best = score.sort(descending=True, stable=True).indices[:kept]
    return Cut(group, tuple(sorted(best.tolist())))


def rounded_width(channels: int, ratio: float, round_to: int) -> int:
    """Channels that stay of so many: the multiple of ``round_to`` nearest to ``channels (1 - ratio)``, halves up.

    Never less than one multiple, and never more than there are.
    """
    return snapped(channels, channels * (1 - ratio), round_to)


def snapped(channels: int, wanted: float, round_to: int) -> int:
    """The multiple of ``round_to`` nearest to a wanted width, halves up; at least one, at most all channels."""
    return min(channels, max(1, int(wanted / round_to + 0.5)) * round_to)
