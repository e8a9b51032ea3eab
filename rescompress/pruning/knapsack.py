"""Widths that lose the least importance within a budget: a multiple-choice knapsack whose items share their weight.

A layer's cost depends on the groups on both of its sides. So each multiplier of the Lagrangian ``lost + λ cost`` is met
by coordinate descent with exact costs; λ is bisected; what is left of the budget is filled up by worth per cost, and
pairs of groups trade a step where that gains.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from rescompress.pruning.problem import Levels, Problem

BISECTIONS, SWEEPS, CANDIDATES = 24, 20, 4
TRIES, REACHES = 1000, (-1, 1, -2, 2, -4, 4)
"""How many trades are tried, over the number of groups, and by how many steps a group moves in one."""
SLACK = 1e-9
"""Share of the budget that rounding in floating point may add."""


def fits(problem: Problem, cost: float) -> bool:
    """Whether a cost keeps within the budget."""
    return cost <= problem.budget * (1 + SLACK)


def fill_up(problem: Problem, start: Levels, held: int | None = None) -> Levels:
    """Widen groups while the budget lasts, each time the one that gains most importance per cost.

    Args:
        problem: with the budget.
        start: what already fits.
        held: a group that keeps its width.
    """
    levels, cost = list(start), problem.cost(start)
    while True:
        best = (-np.inf, 0, 0, 0.0)
        for group, gain, more in _changes(problem, levels, held):
            wider = np.arange(len(gain)) > levels[group]
            worth = np.where(more > 0, gain / np.where(more > 0, more, 1.0), np.inf)
            worth[~wider | (cost + more > problem.budget * (1 + SLACK))] = -np.inf
            place = int(worth.argmax())
            best = max(best, (float(worth[place]), -group, place, float(more[place])), key=lambda move: move[:2])
        if best[0] == -np.inf:
            return levels
        levels[-best[1]] = best[2]
        cost += best[3]


def cheapest(problem: Problem) -> Levels:
    """The widths of about the least cost.

    They needn't be the narrowest: a runtime may take longer for 8 channels than for 16. Descents on the cost alone
    start from every width that all groups can have at once.
    """
    starts = range(max(len(grid) for grid in problem.grids))
    levels = [[min(level, len(grid) - 1) for grid in problem.grids] for level in starts]
    found = [_descended(problem, 1.0, each, weight=0.0) for each in levels]
    return min((problem.fewest, *found), key=problem.cost)


def least_lost(problem: Problem) -> Levels:
    """Within the budget, widths that lose about the least importance; the cheapest where nothing fits."""
    last = cheapest(problem)
    found = [last]
    low, high = 1e-9, 1e9  # λ in units of all importance over the whole cost
    unit = max(float(sum(lost[0] for lost in problem.lost)), SLACK) / problem.cost(problem.all)
    levels = last
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        levels = min(
            (_descended(problem, middle * unit, start) for start in (levels, problem.all)),
            key=lambda each: problem.loss(each) + middle * unit * problem.cost(each),
        )
        if fits(problem, problem.cost(levels)):
            high = middle
            found.append(levels)
        else:
            low = middle
            found.append(_trimmed(problem, levels))
    feasible = _distinct(levels for levels in found if fits(problem, problem.cost(levels)))
    filled = _distinct(fill_up(problem, levels) for levels in sorted(feasible, key=problem.loss)[:CANDIDATES])
    return min((_traded(problem, levels) for levels in filled), key=problem.loss, default=last)


def _descended(problem: Problem, price: float, start: Levels, weight: float = 1.0) -> Levels:
    """Coordinate descent on ``weight * lost + price * cost``; ties go to the wider."""
    levels = list(start)
    for _ in range(SWEEPS):
        before = list(levels)
        for group, lost in enumerate(problem.lost):
            value = weight * lost + price * problem.along(levels, group)
            levels[group] = len(value) - 1 - int(value[::-1].argmin())
        if levels == before:
            break
    return levels


def _trimmed(problem: Problem, start: Levels, held: int | None = None) -> Levels:
    """Narrow groups until the budget is met, each time the one that loses least importance per cost saved."""
    levels = list(start)
    while not fits(problem, problem.cost(levels)):
        best = (np.inf, 0, 0)
        for group, gain, more in _changes(problem, levels, held):
            worth = np.where(more < 0, gain / np.where(more < 0, more, 1.0), np.inf)
            worth[levels[group] :] = np.inf
            place = int(worth.argmin())
            best = min(best, (float(worth[place]), group, place), key=lambda move: move[:2])
        if best[0] == np.inf:
            break
        levels[best[1]] = best[2]
    return levels


def _changes(
    problem: Problem, levels: Levels, held: int | None
) -> Iterator[tuple[int, Float[np.ndarray, " _"], Float[np.ndarray, " _"]]]:
    """Per group the importance gained and the cost added at each place of its grid, against where it is."""
    for group, level in enumerate(levels):
        if group != held:
            along, lost = problem.along(levels, group), problem.lost[group]
            yield group, lost[level] - lost, along - along[level]


def _traded(problem: Problem, start: Levels) -> Levels:
    """Set one group to another width and let the others pay or gain, as long as that loses less importance."""
    best, least, left = list(start), problem.loss(start), TRIES // len(start)
    while left > 0:
        for tried in _trades(problem, best):
            left -= 1
            if problem.loss(tried) < least - SLACK * abs(least):
                best, least = tried, problem.loss(tried)
                break
            if left <= 0:
                break
        else:
            break
    return best


def _trades(problem: Problem, levels: Levels) -> Iterator[Levels]:
    """One group some steps up or down and held there, the others trimmed or filled up to the budget."""
    for group, level in enumerate(levels):
        for other in (level + reach for reach in REACHES):
            if 0 <= other < len(problem.grids[group]):
                tried = list(levels)
                tried[group] = other
                tried = _trimmed(problem, tried, held=group)
                if fits(problem, problem.cost(tried)):
                    yield fill_up(problem, tried, held=group)


def _distinct(many: Iterator[Levels] | Sequence[Levels]) -> list[Levels]:
    return [list(levels) for levels in dict.fromkeys(tuple(levels) for levels in many)]
