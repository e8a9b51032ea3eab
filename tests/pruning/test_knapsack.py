"""The planner against everything there is, on networks small enough to try it all."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rescompress.pruning.knapsack import cheapest, fill_up, least_lost
from rescompress.pruning.rankings import in_budget, lowest
from tests.pruning import problems
from tests.pruning.problems import networks, seeds, shares

prices = st.sampled_from(("macs", "stairs"))
steps = st.integers(2, 6)
TINY = 1 + 1e-9


@settings(max_examples=15)
@given(networks, steps, shares, seeds, prices)
def test_the_budget_is_never_exceeded(widths: list[int], round_to: int, share: float, seed: int, price: str) -> None:
    problem = problems.problem(widths, round_to=round_to, share=share, seed=seed, prices=price)
    assume(problem.cost(problem.fewest) <= problem.budget)
    levels = least_lost(problem)
    assert problem.cost(levels) <= problem.budget * TINY
    for grid, kept, step in zip(problem.grids, problem.widths(levels), problem.steps, strict=True):
        assert kept in grid
        assert kept % step == 0 or kept == grid[-1]


@settings(max_examples=15)
@given(networks, steps, shares, seeds)
def test_little_more_is_lost_than_must_be(widths: list[int], round_to: int, share: float, seed: int) -> None:
    problem = problems.problem(widths, round_to=round_to, share=share, seed=seed)
    assume(problem.cost(problem.fewest) <= problem.budget)
    whole = problem.loss(problem.fewest)
    assert problem.loss(least_lost(problem)) <= problems.best(problem) + 0.03 * whole + 1e-9


def test_on_average_next_to_nothing_more_is_lost() -> None:
    random, gaps = np.random.default_rng(3), []
    for seed in range(30):
        widths = random.integers(4, 24, size=3).tolist()
        price = ("macs", "stairs")[seed % 2]
        problem = problems.problem(widths, round_to=4, share=float(random.uniform(0.2, 0.9)), seed=seed, prices=price)
        if problem.cost(problem.fewest) <= problem.budget:
            least = problems.best(problem)
            gaps.append((problem.loss(least_lost(problem)) - least) / max(problem.loss(problem.fewest), 1e-9))
    assert len(gaps) > 15
    assert np.mean(gaps) < 0.005


@settings(max_examples=15)
@given(networks, steps, shares, seeds, prices)
def test_nothing_that_still_fits_is_left_out(
    widths: list[int], round_to: int, share: float, seed: int, price: str
) -> None:
    problem = problems.problem(widths, round_to=round_to, share=share, seed=seed, prices=price)
    assume(problem.cost(problem.fewest) <= problem.budget)
    levels = fill_up(problem, problem.fewest)
    for group, grid in enumerate(problem.grids):
        for wider in range(levels[group] + 1, len(grid)):
            assert problem.cost([*levels[:group], wider, *levels[group + 1 :]]) > problem.budget


def test_the_cheapest_network_is_not_always_the_narrowest() -> None:
    random, gaps, wider = np.random.default_rng(4), [], 0
    for seed in range(20):
        widths = random.integers(2, 6, size=3) * 4
        problem = problems.problem(widths.tolist(), round_to=4, share=0.5, seed=seed, prices="humps")
        least = min(problem.cost(levels) for levels in problems.every(problem))
        gaps.append(problem.cost(cheapest(problem)) / least - 1)
        wider += least < problem.cost(problem.fewest) * (1 - 1e-9)
        tight = problems.problem(
            widths.tolist(), round_to=4, share=1.0001 * least / problem.budget * 0.5, seed=seed, prices="humps"
        )
        assert tight.cost(least_lost(tight)) <= tight.budget * TINY or gaps[-1] > 0
        for ranking in ("local", "isomorphic"):
            loose = problem.cost(lowest(problem, ranking)) / problem.budget * 0.5 * 1.001
            within = problems.problem(widths.tolist(), round_to=4, share=loose, seed=seed, prices="humps")
            assert within.cost(in_budget(within, ranking)) <= within.budget * TINY
    assert wider >= 5
    assert np.mean(gaps) < 0.02


def test_a_looser_budget_loses_less() -> None:
    losses = []
    for share in np.linspace(0.2, 0.95, 7):
        problem = problems.problem([32, 48, 64, 16], round_to=4, share=float(share), seed=5)
        losses.append(problem.loss(least_lost(problem)))
    assert losses == sorted(losses, reverse=True)


def test_a_staircase_is_cut_at_its_edges() -> None:
    problem = problems.problem([64, 64, 64], round_to=2, share=0.6, seed=1, prices="stairs")
    assert all(width % 8 == 0 for width in problem.widths(least_lost(problem)))
