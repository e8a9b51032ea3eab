"""Made-up networks for planners: groups of channels, layers between them, importances."""

from collections.abc import Iterator
from itertools import product

import numpy as np
from hypothesis import strategies as st

from rescompress.pruning.groups import Group, Member
from rescompress.pruning.problem import Levels, Problem, grid_of, step_of
from rescompress.pruning.terms import Costs, Term, Width


def group(channels: int, name: str = "conv", width: int = 1) -> Group:
    places = tuple(tuple(range(c * width, (c + 1) * width)) for c in range(channels))
    return Group(channels, (Member(name, "outputs", places),), width)


def problem(
    widths: list[int], *, round_to: int, share: float, seed: int, prices: str = "macs", least: float = 0.0
) -> Problem:
    """Random layers between random pairs of groups, as dear as their widths multiplied, in stairs or with humps."""
    random = np.random.default_rng(seed)
    groups = tuple(group(width, f"conv{index}") for index, width in enumerate(widths))
    terms = [Term(Width(3), Width(0, ((0, 1),)), _price(random, prices))]
    for _ in range(2 * len(widths)):
        one, other = random.integers(len(widths), size=2)
        terms.append(Term(Width(0, ((int(one), 1),)), Width(0, ((int(other), 1),)), _price(random, prices)))
    if prices == "channels":
        terms = [Term(Width(0), Width(0, ((index, 1),)), lambda i, o: o) for index in range(len(widths))]
    costs = Costs(terms)
    return Problem(
        groups,
        tuple(random.gamma(1.0, random.uniform(0.5, 2), size=width) for width in widths),
        tuple(grid_of(each, round_to, least=least * each.channels) for each in groups),
        tuple(step_of(each, round_to) for each in groups),
        tuple(widths),
        tuple((str(index % 2),) for index in range(len(widths))),
        costs,
        share * costs.total(widths),
    )


def _price(random: np.random.Generator, prices: str):
    dear = float(random.uniform(0.2, 2))
    if prices == "macs":
        return lambda i, o: dear * i * o
    if prices == "humps":  # widths off the runtime's own grid take the slow way
        return lambda i, o: (
            dear * np.asarray(i) * np.asarray(o) * np.where((np.asarray(i) % 8) | (np.asarray(o) % 8), 9, 1)
        )
    return lambda i, o: dear * np.ceil(np.asarray(i) / 8) * np.ceil(np.asarray(o) / 8)


def every(problem: Problem) -> Iterator[Levels]:
    """All choices there are."""
    return map(list, product(*(range(len(grid)) for grid in problem.grids)))


def best(problem: Problem) -> float:
    """The least importance that can be lost within the budget, by trying everything."""
    return min(problem.loss(levels) for levels in every(problem) if problem.cost(levels) <= problem.budget)


shares = st.floats(0.05, 0.95)
networks = st.lists(st.integers(4, 20), min_size=1, max_size=3)
seeds = st.integers(0, 2**32 - 1)
