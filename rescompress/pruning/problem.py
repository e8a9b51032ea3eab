"""What a ranking decides on: how many channels each group keeps, what that loses and what it costs."""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, lcm

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from rescompress.pruning.groups import Group
from rescompress.pruning.terms import Costs

Levels = list[int]
"""Per group a place on its grid."""


@dataclass(frozen=True)
class Problem:
    """Widths to choose from, and what speaks for each.

    Attributes:
        groups: those that may be cut.
        scores: importance of each group's channels.
        grids: per group the numbers of channels that may stay, ascending; the last is all there are.
        steps: per group the distance of two widths on the grid that ``round_to`` gives.
        wide: per group the channels that it had before any cut; a ratio is of these.
        kinds: per group its signature; isomorphic groups share one.
        costs: of the network at any widths.
        budget: what the network may cost.
    """

    groups: tuple[Group, ...]
    scores: tuple[Float[np.ndarray, " _"], ...]
    grids: tuple[Int[np.ndarray, " _"], ...]
    steps: tuple[int, ...]
    wide: tuple[int, ...]
    kinds: tuple[tuple[str, ...], ...]
    costs: Costs
    budget: float = float("inf")

    @cached_property
    def lost(self) -> tuple[Float[np.ndarray, " _"], ...]:
        """Per group the importance that is lost at each place of its grid."""
        return tuple(_lost(scores, grid) for scores, grid in zip(self.scores, self.grids, strict=True))

    @cached_property
    def _told(self) -> dict[tuple[int, ...], Float[np.ndarray, " _"]]:
        """What ``along`` found, by the group and the places of those that share a layer with it."""
        return {}

    def widths(self, levels: Levels) -> list[int]:
        """Channels that each group keeps."""
        return [int(grid[level]) for grid, level in zip(self.grids, levels, strict=True)]

    def cost(self, levels: Levels) -> float:
        """What the network costs then."""
        return self.costs.total(self.widths(levels))

    def loss(self, levels: Levels) -> float:
        """Importance of all channels that leave."""
        return float(sum(lost[level] for lost, level in zip(self.lost, levels, strict=True)))

    def along(self, levels: Levels, group: int) -> Float[np.ndarray, " _"]:
        """The cost of the layers that a group touches, at each place of its grid."""
        key = (group, *(levels[near] for near in self.costs.near(group)))
        if key not in self._told:
            self._told[key] = self.costs.along(self.widths(levels), group, self.grids[group])
        return self._told[key]

    @property
    def fewest(self) -> Levels:
        """Every group at its narrowest."""
        return [0] * len(self.grids)

    @property
    def all(self) -> Levels:
        """Nothing cut."""
        return [len(grid) - 1 for grid in self.grids]


def grid_of(group: Group, round_to: int, *, wide: int | None = None, least: float = 0.0) -> Int[np.ndarray, " _"]:
    """The widths that a group may have, as numbers of its channels.

    Args:
        group: of which never fewer than one step is left.
        round_to: all widths but the whole are a multiple of this.
        wide: channels that it had before any cut.
        least: channels that stay at least.
    """
    step = step_of(group, round_to)
    start = max(step, ceil(least / step - 1e-9) * step)
    narrower = range(start, wide or group.channels, step)
    return np.array([*(width for width in narrower if width < group.channels), group.channels])


def step_of(group: Group, round_to: int) -> int:
    """How many of a group's channels make its width a multiple of ``round_to``."""
    return lcm(round_to, group.width) // group.width


def ranked(scores: Float[Tensor, " c"]) -> Float[np.ndarray, " c"]:
    """Scores as NumPy has them, in double precision."""
    return scores.detach().cpu().double().numpy()


def _lost(scores: Float[np.ndarray, " c"], grid: Int[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """The sum of the lowest scores: all but the best so many."""
    gone = np.concatenate([[0.0], np.cumsum(np.sort(scores))])
    return np.asarray(gone[len(scores) - grid])
