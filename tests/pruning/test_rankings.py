"""Local and isomorphic rankings keep to their ratio, to the budget and to the grid; looser never removes more."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rescompress.pruning import find_groups
from rescompress.pruning.plan import rounded_width
from rescompress.pruning.rankings import at_ratio, in_budget, signature
from tests.networks import stock
from tests.pruning import problems
from tests.pruning.problems import networks, seeds, shares

rankings = st.sampled_from(("local", "isomorphic"))
steps = st.integers(1, 6)


@given(networks, steps, shares, seeds, rankings)
def test_the_budget_is_never_exceeded(widths: list[int], round_to: int, share: float, seed: int, ranking: str) -> None:
    problem = problems.problem(widths, round_to=round_to, share=share, seed=seed)
    assume(problem.cost(problem.fewest) <= problem.budget)
    levels = in_budget(problem, ranking)
    assert problem.cost(levels) <= problem.budget * (1 + 1e-9)
    assert all(kept in grid for grid, kept in zip(problem.grids, problem.widths(levels), strict=True))


@given(networks, steps, shares, shares, seeds, rankings)
def test_a_looser_target_never_removes_more_of_any_group(
    widths: list[int], round_to: int, one: float, other: float, seed: int, ranking: str
) -> None:
    tight, loose = (problems.problem(widths, round_to=round_to, share=s, seed=seed) for s in sorted((one, other)))
    assume(tight.cost(tight.fewest) <= tight.budget)
    pairs = zip(in_budget(tight, ranking), in_budget(loose, ranking), strict=True)
    assert all(narrow <= wide for narrow, wide in pairs)


@given(networks, steps, shares, seeds)
def test_local_takes_the_ratio_of_every_group(widths: list[int], round_to: int, ratio: float, seed: int) -> None:
    problem = problems.problem(widths, round_to=round_to, share=1, seed=seed)
    kept = problem.widths(at_ratio(problem, "local", ratio))
    assert kept == [rounded_width(width, ratio, round_to) for width in widths]


@given(networks, shares, seeds)
def test_isomorphic_takes_the_ratio_of_every_class(widths: list[int], ratio: float, seed: int) -> None:
    problem = problems.problem(widths, round_to=1, share=1, seed=seed)
    kept = problem.widths(at_ratio(problem, "isomorphic", ratio))
    for kind in set(problem.kinds):
        members = [index for index, each in enumerate(problem.kinds) if each == kind]
        stay = round(sum(widths[index] for index in members) * (1 - ratio))
        assert stay <= sum(kept[index] for index in members) <= stay + len(members)  # one channel of each stays
        gone = [score for index in members for score in np.sort(problem.scores[index])[: widths[index] - kept[index]]]
        left = [s for i in members for s in np.sort(problem.scores[i])[widths[i] - kept[i] :] if kept[i] > 1]
        assert not gone or not left or max(gone) <= min(left)


@settings(max_examples=15)
@given(networks, steps, shares, seeds)
def test_global_removes_the_share_of_all_channels(widths: list[int], round_to: int, ratio: float, seed: int) -> None:
    problem = problems.problem(widths, round_to=round_to, share=1 - ratio, seed=seed, prices="channels")
    assume(problem.cost(problem.fewest) <= problem.budget)
    kept = problem.widths(at_ratio(problem, "global", ratio))
    assert sum(kept) <= (1 - ratio) * sum(widths) + 1e-6


def test_groups_that_are_built_alike_are_isomorphic() -> None:
    model = stock("cifar", "resnet8", shortcut="B")
    kinds = {group.name: signature(model, group) for group in find_groups(model, (3, 32, 32))[0]}
    inner = {name: kind for name, kind in kinds.items() if name.endswith("0.conv1")}
    assert len(inner) == 3
    assert len(set(inner.values())) == 1
    assert len(set(kinds.values())) > 1


@pytest.mark.parametrize("ranking", ["local", "isomorphic", "global"])
def test_where_everything_fits_nothing_is_cut(ranking: str) -> None:
    problem = problems.problem([8, 16], round_to=4, share=1.0, seed=0)
    assert in_budget(problem, ranking) == problem.all
