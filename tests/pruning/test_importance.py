"""Every file in rescompress/pruning/importance keeps the contract: a number per channel, wherever it stands."""

import copy
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rescompress import catalog, models
from rescompress.errors import InputRefused
from rescompress.layers import keep_channels
from rescompress.pruning import IMPORTANCE, Group, find_groups
from rescompress.pruning.evidence import Evidence, gather
from tests.networks import context, custom, enliven, noise, same, snapshot, stock

NAMES = catalog.names(IMPORTANCE.package)
CRITERIA = [name for name in NAMES if name != "random"]


class Small(nn.Module):
    """A grouped convolution and a GroupNorm, each in a group of its own: 4 units of 4 channels, 3 of 4, 10 of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.grouped, self.inner = nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(16, 12, 1)
        self.gn, self.last, self.linear = nn.GroupNorm(3, 12), nn.Conv2d(12, 10, 1), nn.Linear(10, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.bn(self.stem(images)))))
        return self.linear(torch.relu(self.last(torch.relu(self.gn(self.inner(x))))).mean((2, 3)))


@cache
def network(name: str) -> tuple[nn.Module, tuple[Group, ...], Evidence]:
    if name == "small":
        model, ctx = custom(enliven(Small())), context(3, side=8)
    else:
        model, ctx = stock("cifar", "resnet8", shortcut=name), context()
    return model, find_groups(model, models.spec_of(model).input_shape)[0], gather(model, ctx)


def score(name: str, model: nn.Module, group: Group, evidence: Evidence) -> Tensor:
    made: Tensor = IMPORTANCE.bind(name)(model, group, evidence)
    return made


def scored(name: str, of: str) -> list[tuple[Group, Tensor]]:
    """The groups of a network that a criterion can judge."""
    model, groups, evidence = network(of)
    if name == "bn_scale":
        groups = tuple(g for g in groups if any("bn" in m.layer or "shortcut.1" in m.layer for m in g.members))
    return [(group, score(name, model, group, evidence)) for group in groups]


def test_the_small_network_has_units() -> None:
    assert [(group.channels, group.width) for group in network("small")[1]] == [(4, 4), (3, 4), (10, 1)]


@pytest.mark.parametrize("of", ["A", "B", "small"])
@pytest.mark.parametrize("name", NAMES)
def test_each_channel_gets_one_number(name: str, of: str) -> None:
    model = network(of)[0]
    before, state = snapshot(model), torch.get_rng_state()
    for group, made in scored(name, of):
        assert made.shape == (group.channels,)
        assert made.dtype == torch.float32
        assert made.isfinite().all()
        assert (made >= 0).all()
        assert len(made.unique()) > 1, "every channel is worth the same"
    assert all(torch.equal(one[1], other[1]) for one, other in zip(scored(name, of), scored(name, of), strict=True))
    assert same(before, snapshot(model))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NAMES)
def test_dead_weights_have_a_finite_worth(name: str) -> None:
    model, groups = copy.deepcopy(network("B")[0]), network("B")[1]
    for parameter in model.parameters():
        parameter.data.zero_()
    evidence = gather(model, context())
    assert all(score(name, model, group, evidence).isfinite().all() for group in groups)


@pytest.mark.parametrize("of", ["A", "B", "small"])
@settings(max_examples=2)
@given(seed=st.integers(0, 2**32))
def test_renumbered_channels_keep_their_worth(of: str, seed: int) -> None:
    model, groups, _ = network(of)
    generator = torch.Generator().manual_seed(seed)
    renumbered = copy.deepcopy(model)
    orders = [torch.randperm(group.channels, generator=generator) for group in groups]
    for group, order in zip(groups, orders, strict=True):
        renumber(renumbered, group, order.tolist())
    assert torch.allclose(
        models.predict(renumbered, [noise(model)]), models.predict(model, [noise(model)]), atol=1e-4
    ), "the channels were not renumbered alike everywhere"
    new = gather(renumbered, context(3, side=8) if of == "small" else context())
    order_of = {group.name: order for group, order in zip(groups, orders, strict=True)}
    for name in CRITERIA:
        for group, made in scored(name, of):
            again = score(name, renumbered, group, new)
            assert torch.allclose(again, made[order_of[group.name]], rtol=1e-3, atol=1e-5 * float(made.max())), name


def renumber(model: nn.Module, group: Group, order: list[int]) -> None:
    for member in group.members:
        layer = model.get_submodule(member.layer)
        places = [place for channel in order for place in member.places[channel]]
        if (isinstance(layer, nn.Conv2d) and layer.groups > 1) or isinstance(layer, nn.GroupNorm):
            for parameter in layer.parameters():
                parameter.data = parameter.data[places]
        else:
            keep_channels(layer, *((places, None) if member.side == "inputs" else (None, places)))


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm", "lamp"])
@settings(max_examples=3)
@given(factor=st.floats(0.01, 100))
def test_relative_norms_do_not_know_a_layer_s_scale(name: str, factor: float) -> None:
    model, groups, evidence = network("B")
    scaled = copy.deepcopy(model)
    scaled.layer2[0].conv2.weight.data *= factor
    for group in groups:
        made = score(name, model, group, evidence)
        assert torch.allclose(score(name, scaled, group, evidence), made, rtol=1e-4)


@pytest.mark.parametrize("name", ["taylor", "obd"])
@settings(max_examples=3)
@given(factor=st.floats(0.1, 10))
def test_slopes_do_not_know_a_scale_that_the_answer_does_not_show(name: str, factor: float) -> None:
    """A channel made larger and read smaller behind a ReLU gives the same network."""
    model, groups, evidence = network("small")
    scaled = copy.deepcopy(model)
    scaled.last.weight.data *= factor
    scaled.last.bias.data *= factor
    scaled.linear.weight.data /= factor
    made = score(name, scaled, groups[2], gather(scaled, context(3, side=8)))
    assert torch.allclose(made, score(name, model, groups[2], evidence), rtol=1e-3)


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm"])
def test_groups_are_worth_the_same_on_average(name: str) -> None:
    assert all(float(made.mean()) == pytest.approx(1, rel=1e-5) for _, made in scored(name, "A"))


def test_the_best_channel_of_each_group_is_worth_one_to_lamp() -> None:
    assert all(float(made.max()) == 1 for _, made in scored("lamp", "A"))


def test_chance_follows_the_seed_and_the_group() -> None:
    model, groups, _ = network("A")
    first, other = (score("random", model, group, Evidence(4)) for group in groups[1:3])
    assert torch.equal(first, score("random", model, groups[1], Evidence(4)))
    assert not torch.equal(first, score("random", model, groups[1], Evidence(5)))
    assert not torch.equal(first, other[: len(first)])


def test_a_group_without_a_batch_norm_is_refused_by_name() -> None:
    model, groups, evidence = network("small")
    with pytest.raises(InputRefused, match="channels that inner makes") as refusal:
        score("bn_scale", model, groups[1], evidence)
    assert "keep" in refusal.value.remedy
