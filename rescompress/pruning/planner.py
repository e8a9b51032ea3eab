"""From a goal to cuts: groups, scores and costs make a problem, a ranking solves it, and the cuts are proven."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from rescompress import models, progress
from rescompress.benchmarking.layers import Estimator
from rescompress.errors import InputRefused
from rescompress.pruning.goals import Goal, Kind, unmet
from rescompress.pruning.groups import Group
from rescompress.pruning.knapsack import fits
from rescompress.pruning.latency import timed
from rescompress.pruning.plan import Cut, best_of
from rescompress.pruning.problem import Levels, Problem, grid_of, ranked, step_of
from rescompress.pruning.rankings import Ranking, at_ratio, in_budget, lowest, signature
from rescompress.pruning.surgery import cut_channels, proven
from rescompress.pruning.terms import Costs, counted, pixels_of
from rescompress.pruning.wording import told_emptied


@dataclass(frozen=True)
class Rules:
    """What every plan of a stage keeps to.

    Attributes:
        ranking: how groups are compared.
        round_to: what the number of kept channels is a multiple of.
        most: largest share that one group may lose where groups are compared.
        estimator: tells how long layers take, where the goal is a latency.
    """

    ranking: Ranking
    round_to: int
    most: float
    estimator: Estimator | None = None


@dataclass(frozen=True)
class Origin:
    """The network before any cut, which all shares are of.

    Attributes:
        wide: channels of each group, by its name.
        cost: of the whole network in the goal's unit.
    """

    wide: Mapping[str, int]
    cost: float = float("nan")


@dataclass(frozen=True)
class Planned:
    """Cuts, and the share of the original cost that they should leave."""

    cuts: tuple[Cut, ...]
    share: float


class Planner:
    """Plans cuts of one model whose groups and scores are known.

    Args:
        model: a float model.
        groups: those that may be cut.
        scores: importance of each group's channels.
        rules: what every plan keeps to.
        kind: what goals count.
        origin: the network before any cut; None if this is it.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        scores: Sequence[Float[Tensor, " _"]],
        rules: Rules,
        kind: Kind,
        origin: Origin | None = None,
    ) -> None:
        self._model, self._rules, self._kind = model, rules, kind
        self._scores = dict(zip(groups, scores, strict=True))
        self._costs: Costs | None = None
        wide = origin.wide if origin else {group.name: group.channels for group in groups}
        self.origin = Origin(wide)  # until the cost is known
        problem = self._problem(float("inf"))
        self.origin = origin or Origin(wide, problem.cost(problem.all))

    @property
    def groups(self) -> tuple[Group, ...]:
        """Those that may still be cut."""
        return tuple(self._scores)

    def plan(self, goal: Goal) -> Planned:
        """Cuts that meet a goal, all of them proven; a group whose cut is unsafe keeps its channels.

        Raises:
            RecipeError: the goal can't be met.
            InputRefused: no group can be cut.
        """
        return self._proven(lambda: self._plan(goal))

    def check(self, goal: Goal) -> None:
        """Refuse a goal that even the cheapest network misses, before anything is cut or trained.

        Raises:
            RecipeError: it does.
        """
        if goal.kind == "ratio" and self._rules.ranking != "global":
            return
        whole = self._whole(goal)
        problem = self._problem(whole * goal.remains)
        least = problem.cost(lowest(problem, self._rules.ranking)) if self._scores else 0.0
        if not fits(problem, least):
            raise unmet(goal, least / whole)

    def fastest(self) -> Planned:
        """The cuts that cost least, proven as any others."""
        return self._proven(self._cheapest)

    def cut(self, planned: Planned) -> nn.Module:
        """The model with the channels that a plan keeps."""
        return cut_channels(self._model, planned.cuts)

    def _proven(self, attempt: Callable[[], Planned]) -> Planned:
        shape = models.spec_of(self._model).input_shape
        while self._scores:
            planned = attempt()
            safe = proven(self._model, planned.cuts, shape)
            unsafe = [cut.group for cut in planned.cuts if cut not in safe]
            if not unsafe:
                return planned
            for group in unsafe:
                progress.note(f"prune: {group.name} keeps its channels: cutting them changes what others compute.")
                del self._scores[group]
            self._costs = None
        raise InputRefused("No channel of this model can be cut safely.", "Leave prune out of the recipe.")

    def _plan(self, goal: Goal) -> Planned:
        self.check(goal)
        whole = self._whole(goal)
        problem = self._problem(whole * goal.remains)
        if goal.kind == "ratio" and self._rules.ranking != "global":
            levels = at_ratio(problem, self._rules.ranking, goal.share)
            emptied = told_emptied(problem.groups, problem.wide, goal.share, problem.steps)
            if emptied and self._rules.ranking == "local":
                progress.note(emptied)
        else:
            levels = in_budget(problem, self._rules.ranking)
        return self._planned(problem, levels, whole)

    def _cheapest(self) -> Planned:
        problem = self._problem(float("inf"))
        return self._planned(problem, lowest(problem, self._rules.ranking), self.origin.cost)

    def _planned(self, problem: Problem, levels: Levels, whole: float) -> Planned:
        kept = zip(self._scores.items(), problem.widths(levels), strict=True)
        cuts = tuple(best_of(group, scores, width) for (group, scores), width in kept)
        return Planned(cuts, problem.cost(levels) / whole)

    def _whole(self, goal: Goal) -> float:
        """What the original network costs; a ratio is of those groups only that can be cut."""
        if goal.kind == "ratio":
            return float(sum(self._wide(group) * group.width for group in self.groups))
        return self.origin.cost

    def _problem(self, budget: float) -> Problem:
        grids = tuple(self._grid(group) for group in self.groups)
        self._costs = self._costs or self._costs_on(grids)
        return Problem(
            self.groups,
            tuple(ranked(scores) for scores in self._scores.values()),
            grids,
            tuple(step_of(group, self._rules.round_to) for group in self.groups),
            tuple(self._wide(group) for group in self.groups),
            tuple(signature(self._model, group) for group in self.groups),
            self._costs,
            budget,
        )

    def _costs_on(self, grids: Sequence[Int[np.ndarray, " _"]]) -> Costs:
        if self._kind == "latency":
            assert self._rules.estimator is not None
            return timed(self._model, self.groups, grids, self._rules.estimator)
        if self._kind == "ratio":
            return counted(self._model, self.groups, "channels")
        shape = models.spec_of(self._model).input_shape
        return counted(self._model, self.groups, self._kind, pixels_of(self._model, shape))

    def _grid(self, group: Group) -> Int[np.ndarray, " _"]:
        spared = 0.0 if self._rules.ranking == "local" else 1 - self._rules.most
        wide = self._wide(group)
        return grid_of(group, self._rules.round_to, wide=wide, least=spared * wide)

    def _wide(self, group: Group) -> int:
        return self.origin.wide.get(group.name, group.channels)
