"""Which groups give up how many channels: each by itself, like with like, or all against all."""

from collections import defaultdict
from collections.abc import Callable
from typing import Literal

import numpy as np
from torch import nn

from rescompress.pruning.groups import Group
from rescompress.pruning.knapsack import cheapest, fits, least_lost
from rescompress.pruning.plan import snapped
from rescompress.pruning.problem import Levels, Problem

Ranking = Literal["local", "global", "isomorphic"]
BISECTIONS = 40
RATIOS = np.linspace(0, 1, 41).tolist()
"""Tried one after the other, because a narrower network isn't always the cheaper one."""
Rule = Callable[[Problem, float], Levels]
"""From a ratio to what stays of each group; a larger ratio never keeps more of any."""


def at_ratio(problem: Problem, ranking: Ranking, ratio: float) -> Levels:
    """What stays where this share of the channels leaves: of each group, of each class of them, or of all together.

    Args:
        problem: its budget counts under the global ranking only, where it is one of channels.
        ranking: how groups are compared.
        ratio: share that leaves, before rounding to the grid.
    """
    return least_lost(problem) if ranking == "global" else _RULES[ranking](problem, ratio)


def lowest(problem: Problem, ranking: Ranking) -> Levels:
    """The widths of about the least cost that a ranking can come to."""
    if ranking == "global":
        return cheapest(problem)
    return min((_RULES[ranking](problem, ratio) for ratio in RATIOS), key=problem.cost)


def in_budget(problem: Problem, ranking: Ranking) -> Levels:
    """What stays within the budget, which the cheapest network must keep."""
    return least_lost(problem) if ranking == "global" else _bisected(problem, _RULES[ranking])


def signature(model: nn.Module, group: Group) -> tuple[str, ...]:
    """Equal for groups whose layers have the same kinds and sides, whatever their widths and depth.

    Groups are isomorphic in the sense of Fang et al. 2024 (arXiv:2407.04616): importances are compared only between
    groups that are built alike.
    """
    return tuple(sorted(f"{member.side} {_kind(model.get_submodule(member.layer))}" for member in group.members))


def _kind(layer: nn.Module) -> str:
    kernel = getattr(layer, "kernel_size", "")
    return f"{type(layer).__name__} {kernel} {'grouped' if getattr(layer, 'groups', 1) > 1 else ''}".strip()


def _alike(problem: Problem, ratio: float) -> Levels:
    """Every group loses the same share."""
    return [_nearest(problem, index, wide * (1 - ratio)) for index, wide in enumerate(problem.wide)]


def _by_class(problem: Problem, ratio: float) -> Levels:
    """Every class of isomorphic groups loses the same share, wherever in it the least important channels are."""
    classes: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, kind in enumerate(problem.kinds):
        classes[kind].append(index)
    levels = [0] * len(problem.groups)
    for members in classes.values():
        owner = np.concatenate([np.full(len(problem.scores[index]), index) for index in members])
        order = np.argsort(-np.concatenate([problem.scores[index] for index in members]), kind="stable")
        stay = round(sum(problem.wide[index] for index in members) * (1 - ratio))
        kept = np.bincount(owner[order][:stay], minlength=len(problem.groups))
        for index in members:
            levels[index] = _nearest(problem, index, float(kept[index]))
    return levels


_RULES: dict[str, Rule] = {"local": _alike, "isomorphic": _by_class}


def _nearest(problem: Problem, index: int, wanted: float) -> int:
    """The place on a group's grid nearest to so many of its channels."""
    group, grid, step = problem.groups[index], problem.grids[index], problem.steps[index]
    width = snapped(problem.wide[index] * group.width, wanted * group.width, step * group.width) // group.width
    return int(np.abs(grid - width).argmin())


def _bisected(problem: Problem, rule: Rule) -> Levels:
    """The smallest ratio within the budget; groups that round at the same ratio go down one by one."""
    if fits(problem, problem.cost(problem.all)):
        return problem.all
    costs = {ratio: problem.cost(rule(problem, ratio)) for ratio in RATIOS}
    fitting = [ratio for ratio in RATIOS if fits(problem, costs[ratio])]
    high = max(fitting, key=lambda ratio: costs[ratio], default=1.0)
    if not high:
        return _between(problem, rule(problem, 0.0), problem.all)
    low = max(ratio for ratio in RATIOS if ratio < high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if fits(problem, problem.cost(rule(problem, middle))):
            high = middle
        else:
            low = middle
    return _between(problem, rule(problem, high), rule(problem, low))


def _between(problem: Problem, narrow: Levels, wide: Levels) -> Levels:
    """Raise groups from the one to the other while the budget lasts, those first that gain most importance per cost."""
    worth = {}
    for group, (low, high) in enumerate(zip(narrow, wide, strict=True)):
        if high > low:
            along, lost = problem.along(narrow, group), problem.lost[group]
            worth[group] = float(lost[low] - lost[high]) / max(float(along[high] - along[low]), 1e-30)
    levels = list(narrow)
    for group in sorted(worth, key=lambda each: -worth[each]):
        levels[group] = wide[group]
        if not fits(problem, problem.cost(levels)):
            levels[group] = narrow[group]
            break
    return levels
