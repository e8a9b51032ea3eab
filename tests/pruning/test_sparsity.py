"""Sparse learning: what is worth little gets smaller, and the penalty is its formula."""

import copy
from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rescompress import models
from rescompress.context import Context
from rescompress.errors import InputRefused, RecipeError
from rescompress.pruning import Cut, Group
from rescompress.pruning.evidence import Evidence
from rescompress.pruning.importance import l2
from rescompress.pruning.slices import slices
from rescompress.pruning.sparsity import Sparsity, energies, penalty, press, sparsify, staying
from tests.networks import context, same, snapshot
from tests.pruning.test_formulas import pieces
from tests.pruning.test_importance import network

Kind = Literal["group_lasso", "growing"]
KINDS: tuple[Kind, ...] = ("group_lasso", "growing")
HARD = {"group_lasso": Sparsity("group_lasso", 4.5, 25, 0.02), "growing": Sparsity("growing", 9.0, 25, 0.02)}


def by_l2(model: nn.Module, group: Group) -> Tensor:
    return l2.score(model, group, Evidence())


def norms(model: nn.Module, group: Group) -> list[float]:
    parts = pieces(model, group, dict(model.named_parameters()))
    return [sum(float((rows[c] ** 2).sum()) for rows in parts.values()) ** 0.5 for c in range(group.channels)]


def by_hand(model: nn.Module, start: nn.Module, groups: tuple[Group, ...], sparsity: Sparsity, t: float) -> float:
    total = 0.0
    for group in groups:
        score, now, before = by_l2(start, group).tolist(), norms(model, group), norms(start, group)
        for c in range(group.channels):
            u = (max(score) - score[c]) / (max(score) - min(score))
            if sparsity.penalty == "group_lasso":
                total += sum(before) / len(before) * 2 ** (4 * u) / 2**4 * now[c]
            else:
                total += t * u * now[c] ** 2 / 2
    return sparsity.strength * total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", ["B", "small"])
@settings(max_examples=5)
@given(strength=st.floats(1e-4, 10), t=st.floats(0.01, 1), factor=st.floats(0.1, 10))
def test_the_penalty_is_its_formula(of: str, kind: Kind, strength: float, t: float, factor: float) -> None:
    start, groups, _ = network(of)
    groups, sparsity, later = groups[:3], Sparsity(kind, strength), copy.deepcopy(start)
    for parameter in later.parameters():
        parameter.data *= factor
    pressed = [press(start, group, by_l2(start, group), sparsity) for group in groups]
    made = penalty(dict(later.named_parameters()), pressed, sparsity, t)
    assert float(made.detach()) == pytest.approx(by_hand(later, start, groups, sparsity, t), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_important_channel_is_pressed_most_and_none_is_pulled_apart(kind: Kind) -> None:
    model, groups, _ = network("A")
    score = by_l2(model, groups[1])
    made = press(model, groups[1], score, Sparsity(kind))
    assert made.share[score.argsort()].tolist() == sorted(made.share.tolist(), reverse=True)
    assert float(made.share.max()) == 1
    assert float(made.share.min()) == (2.0**-4 if kind == "group_lasso" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_dead_channels_and_equal_ones_have_finite_gradients(kind: Kind) -> None:
    model, groups = copy.deepcopy(network("A")[0]), network("A")[1]
    for parameter in model.parameters():
        parameter.data.zero_()
    pressed = [press(model, group, by_l2(model, group), Sparsity(kind)) for group in groups]
    made = penalty(dict(model.named_parameters()), pressed, Sparsity(kind), 1.0)
    (gradient,) = torch.autograd.grad(made, [model.conv1.weight])
    assert made.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_will_be_cut_shrinks_against_the_rest(kind: Kind) -> None:
    model, groups, _ = network("small")
    made = sparsify(model, context(3, side=8), groups, by_l2, HARD[kind])
    for group in groups:
        order = by_l2(model, group).argsort()
        before, after = (torch.tensor(norms(each, group))[order] for each in (model, made))
        half = group.channels // 2
        left = after / before
        assert left[:half].max() < 0.6
        assert left[:half].mean() < 0.7 * left[half:].mean(), f"{group.name}: {left}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_presses_what_it_cuts(kind: Kind) -> None:
    model, groups, _ = network("small")
    scores = staying([Cut(groups[0], (1, 3)), Cut(groups[2], tuple(range(10)))])
    shares = [press(model, group, scores(model, group), Sparsity(kind)).share.tolist() for group in groups]
    light = 2.0**-4 if kind == "group_lasso" else 0.0
    assert shares == [[1, light, 1, light], [0] * 3, [0] * 10]


def test_growing_starts_at_nothing() -> None:
    model, groups, _ = network("small")
    pressed = [press(model, group, by_l2(model, group), Sparsity("growing")) for group in groups]
    parameters = dict(model.named_parameters())
    values = [float(penalty(parameters, pressed, Sparsity("growing"), t).detach()) for t in (0.0, 0.25, 1.0)]
    assert values[0] == 0
    assert values[2] == pytest.approx(4 * values[1])


def test_energies_count_all_that_leaves() -> None:
    model, groups, _ = network("B")
    for group in groups:
        made = energies(dict(model.named_parameters()), slices(model, group)).detach()
        assert torch.allclose(made.sqrt(), torch.tensor(norms(model, group)), rtol=1e-4)


def test_no_penalty_is_no_training() -> None:
    model, groups, _ = network("small")
    made = sparsify(model, Context(), groups, by_l2, Sparsity())
    assert made is not model
    assert same(snapshot(made), snapshot(model))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_bits_and_the_argument_stays(kind: Kind) -> None:
    model, groups, _ = network("small")
    before, brief = snapshot(model), Sparsity(kind, epochs=2)
    one, other = (sparsify(model, context(3, side=8), groups, by_l2, brief) for _ in range(2))
    assert same(snapshot(one), snapshot(other))
    assert same(before, snapshot(model))
    assert not torch.equal(one.stem.weight, model.stem.weight)


def test_it_needs_images_and_labels() -> None:
    model, groups, _ = network("small")
    with pytest.raises(RecipeError, match="sparse learning needs images"):
        sparsify(model, Context(), groups, by_l2, HARD["growing"])
    backbone = models.describe(copy.deepcopy(model), replace(models.spec_of(model), output="maps"))
    with pytest.raises(InputRefused, match="gives back maps"):
        sparsify(backbone, context(3, side=8), groups, by_l2, HARD["growing"])
