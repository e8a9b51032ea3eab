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
        width = rounded_width(group.channels * group.width, ratio, step) // group.width
        best = score.sort(descending=True, stable=True).indices[:width]
        cuts.append(Cut(group, tuple(sorted(best.tolist()))))
    return tuple(cuts)


def rounded_width(channels: int, ratio: float, round_to: int) -> int:
    """Channels that stay of so many: the multiple of ``round_to`` nearest to ``channels (1 - ratio)``, halves up.

    Never less than one multiple, and never more than there are.
    """
    multiples = int(channels * (1 - ratio) / round_to + 0.5)
    return min(channels, max(1, multiples) * round_to)
