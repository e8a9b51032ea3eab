"""Each target is reached by the real model, on the grid; what can't be reached or contradicts itself is refused."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rescompress import models, progress, pruning, recipe
from rescompress.benchmarking.layers import LayerShape, shapes_of
from rescompress.context import Context
from rescompress.cost import total_cost
from rescompress.errors import InputRefused, RecipeError
from rescompress.pruning import prune
from rescompress.pruning.sparsity import Sparsity
from rescompress.training import Schedule
from tests.networks import context, custom, noise, same, snapshot, stock

ATTRIBUTES = {"macs": "macs", "params": "params", "bytes": "weight_bytes"}


ONE_STEP = {"resnet20": 0.1, "resnet8": 0.12}
"""What 8 channels of the first stage's residual group cost about, where the other widths are halved."""


def widths(model: nn.Module) -> dict[str, int]:
    return {name: layer.out_channels for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}


def share(small: nn.Module, whole: nn.Module, kind: str) -> float:
    return getattr(total_cost(small), ATTRIBUTES[kind]) / getattr(total_cost(whole), ATTRIBUTES[kind])


@pytest.mark.parametrize(
    ("architecture", "kind", "ranking"),
    [
        ("resnet8", "macs", "global"),
        pytest.param("resnet20", "macs", "global", marks=pytest.mark.slow),
        ("resnet8", "params", "isomorphic"),
        pytest.param("resnet8", "bytes", "local", marks=pytest.mark.slow),
        pytest.param("resnet20", "macs", "local", marks=pytest.mark.slow),
        pytest.param("resnet20", "macs", "isomorphic", marks=pytest.mark.slow),
    ],
)
def test_a_target_is_met_within_one_step(architecture: str, kind: str, ranking: str) -> None:
    whole = stock("cifar", architecture)
    small = prune(whole, Context(), ranking=ranking, round_to=8, **{kind: 0.5})
    assert 0.5 - ONE_STEP[architecture] <= share(small, whole, kind) <= 0.5
    assert all(width % 8 == 0 for width in widths(small).values())
    assert models.predict(small, [noise(whole)]).shape == (2, 10)


@pytest.mark.parametrize("ranking", ["global", "isomorphic"])
def test_a_ratio_is_of_all_channels_together(ranking: str) -> None:
    whole = stock("cifar", "resnet8")
    small = prune(whole, Context(), ranking=ranking, ratio=0.5, round_to=1)
    groups = pruning.find_groups(whole, (3, 32, 32))[0]
    before = sum(group.channels for group in groups)
    after = sum(group.channels for group in pruning.find_groups(small, (3, 32, 32))[0])
    assert after / before == pytest.approx(0.5, abs=0.02)
    assert len({widths(small)[name] / width for name, width in widths(whole).items()}) > 1


def test_no_group_loses_more_than_most() -> None:
    whole = copy.deepcopy(stock("cifar", "resnet8"))
    with torch.no_grad():
        whole.layer3[0].conv1.weight[:60] *= 1e-3
    small = prune(whole, Context(), ranking="global", macs=0.5, round_to=1, most=0.75)
    assert all(after >= widths(whole)[name] / 4 for name, after in widths(small).items())


@pytest.mark.slow
def test_the_global_ranking_loses_less_than_the_local_one() -> None:
    whole = copy.deepcopy(stock("cifar", "resnet8"))
    with torch.no_grad():
        for parameter in whole.layer2[0].parameters():
            parameter[: len(parameter) // 2] *= 1e-3  # half of a block's channels are worth nothing
    local, wide = (prune(whole, Context(), ranking=each, macs=0.7, round_to=4) for each in ("local", "global"))
    strong = {name: width for name, width in widths(whole).items() if not name.startswith("layer2")}
    assert sum(widths(wide)[name] for name in strong) > sum(widths(local)[name] for name in strong)


def test_several_cuts_reach_the_same_target() -> None:
    whole = stock("cifar", "resnet8")
    with progress.gathered() as notes:
        small = prune(whole, context(), params=0.5, ranking="isomorphic", round_to=4, steps=2, importance="taylor")
    assert 0.4 <= share(small, whole, "params") <= 0.5
    assert len(notes) == 1


@pytest.mark.slow
def test_several_cuts_of_one_ratio_leave_the_same_widths() -> None:
    whole = stock("cifar", "resnet8")
    once, thrice = (prune(whole, Context(), ratio=0.5, round_to=16, steps=steps) for steps in (1, 3))
    assert widths(once) == widths(thrice)


def test_between_two_cuts_the_network_is_trained() -> None:
    whole = stock("cifar", "resnet8")
    between = Schedule(epochs=1, batch=16, lr=0.01)
    plain, trained = (prune(whole, context(), ratio=0.5, steps=2, between=each) for each in (None, between))
    assert widths(plain) == widths(trained)
    assert not torch.equal(plain.conv1.weight, trained.conv1.weight)


def test_what_will_leave_is_pressed_before_it_leaves() -> None:
    whole, asked = stock("cifar", "resnet8"), Sparsity("group_lasso", strength=2.0, epochs=2, lr=0.01)
    pressed = prune(whole, context(), ratio=0.5, round_to=4, sparsity=asked)
    plain = prune(whole, context(), ratio=0.5, round_to=4)
    assert widths(pressed) == widths(plain)
    logits = {name: models.predict(model, [noise(whole)]) for name, model in (("pressed", pressed), ("plain", plain))}
    assert not torch.allclose(logits["pressed"], logits["plain"], atol=1e-3)


def test_norms_are_refreshed_where_there_are_images() -> None:
    whole = stock("cifar", "resnet8")
    before = snapshot(whole)
    with progress.gathered() as stale:
        blind = prune(whole, Context(), ratio=0.5)
    with progress.gathered() as fresh:
        seen = prune(whole, context(), ratio=0.5)
    assert not torch.equal(blind.bn1.running_var, seen.bn1.running_var)
    assert torch.equal(blind.conv1.weight, seen.conv1.weight)
    assert "without images" in stale[-1]
    assert len(fresh) == 1
    assert same(before, snapshot(whole))


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"macs": 0.5, "latency": 0.5}, "2 targets: macs 0.5 and latency 0.5"),
        ({"ratio": 0.3, "params": 0.5, "bytes": 0.1}, "3 targets"),
        ({"macs": 1.0}, "macs must be less than 1"),
        ({"between": {"epochs": 1}}, "there is one"),
        ({"ranking": "fair"}, "ranking must be"),
        ({"steps": 0}, "steps must be"),
    ],
)
def test_knobs_that_contradict_each_other_are_refused_in_a_recipe(knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told) as refusal:
        recipe.parse({"model": "digits_resnet20", "stages": [{"prune": knobs}]})
    assert refusal.value.remedy.endswith(".")
    with pytest.raises(RecipeError, match=told):
        prune(stock("cifar", "resnet8"), Context(), **knobs)


@pytest.mark.parametrize("ranking", ["local", "global"])
def test_a_target_that_cannot_be_met_names_the_closest_that_can(ranking: str) -> None:
    whole = stock("cifar", "resnet8")
    with pytest.raises(RecipeError, match=r"macs 0\.02 can't be met: the cheapest network on this grid has 0\.\d+\."):
        prune(whole, Context(), macs=0.02, ranking=ranking)
    with pytest.raises(RecipeError, match=r"can't be met: on this grid at most"):
        prune(whole, Context(), ratio=0.95, ranking="global", round_to=1)


def test_a_ratio_never_empties_a_layer_and_says_so() -> None:
    with progress.gathered() as notes:
        small = prune(stock("cifar", "resnet8"), Context(), ratio=0.9, round_to=16)
    assert set(widths(small).values()) == {16}
    assert "would leave nothing of" in notes[0]


class Tied(nn.Module):
    """Two layers hold one weight, and a third runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.one, self.other = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.last, self.linear = nn.Conv2d(16, 64, 1), nn.Linear(64, 3)
        self.other.weight = self.one.weight

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.stem(images))))))
        x = torch.relu(self.last(torch.relu(self.other(torch.relu(self.one(x))))))
        return self.linear(x.mean((2, 3)))


def test_weights_that_layers_share_stay_whole() -> None:
    whole = custom(Tied())
    with progress.gathered() as notes:
        small = prune(whole, Context(), macs=0.95, round_to=4)
    assert small.one.weight is small.other.weight
    assert widths(small) == {"stem": 16, "twice": 16, "one": 16, "other": 16, "last": widths(small)["last"]}
    assert "one keeps its channels: it shares a weight" in " ".join(notes)
    assert small.last.out_channels < 64


def test_a_network_without_groups_is_refused_under_any_target() -> None:
    with pytest.raises(InputRefused, match="No channel"):
        prune(custom(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten())), Context(), macs=0.5)


def test_names_of_runs_are_those_of_layers() -> None:
    from rescompress.pruning.latency import layer_of

    model = custom(Tied())
    modules = dict(model.named_modules())
    found = [layer_of(run, modules) for run in shapes_of(model)]
    assert found[:3] == ["stem", "twice", "twice"]
    assert found[-2:] == ["last", "linear"]
    assert isinstance(shapes_of(model)["stem"], LayerShape)
