"""Every file in rescompress/pruning/importance keeps the contract: a number per channel, wherever it stands."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rescompress import catalog, models
from rescompress.layers import keep_channels
from rescompress.pruning import IMPORTANCE, Group, find_groups
from rescompress.pruning.evidence import Evidence
from tests.networks import noise, stock

NAMES = catalog.names(IMPORTANCE.package)


@pytest.fixture(scope="module", params=["A", "B"])
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[Group, ...]]:
    model = stock("cifar", "resnet8", shortcut=request.param)
    return model, find_groups(model, (3, 32, 32))[0]


@pytest.mark.parametrize("name", NAMES)
def test_each_channel_gets_one_number(name: str, network: tuple[nn.Module, tuple[Group, ...]]) -> None:
    model, groups = network
    for group in groups:
        score = IMPORTANCE.bind(name)(model, group, Evidence())
        assert score.shape == (group.channels,)
        assert score.isfinite().all()
        assert len(score.unique()) > 1, "every channel is worth the same"


@pytest.mark.parametrize("name", NAMES)
def test_dead_weights_have_a_finite_worth(name: str, network: tuple[nn.Module, tuple[Group, ...]]) -> None:
    model, groups = copy.deepcopy(network[0]), network[1]
    for parameter in model.parameters():
        parameter.data.zero_()
    assert all(IMPORTANCE.bind(name)(model, group, Evidence()).isfinite().all() for group in groups)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32))
def test_renumbered_channels_keep_their_worth(
    name: str, network: tuple[nn.Module, tuple[Group, ...]], seed: int
) -> None:
    model, groups = network
    generator = torch.Generator().manual_seed(seed)
    renumbered = copy.deepcopy(model)
    orders = [torch.randperm(group.channels, generator=generator) for group in groups]
    for group, order in zip(groups, orders, strict=True):
        renumber(renumbered, group, order.tolist())
    assert torch.allclose(
        models.predict(renumbered, [noise(model)]), models.predict(model, [noise(model)]), atol=1e-4
    ), "the channels were not renumbered alike everywhere"
    score = IMPORTANCE.bind(name)
    for group, order in zip(groups, orders, strict=True):
        assert torch.allclose(score(renumbered, group, Evidence()), score(model, group, Evidence())[order], rtol=1e-4)


def renumber(model: nn.Module, group: Group, order: list[int]) -> None:
    for member in group.members:
        places = [place for channel in order for place in member.places[channel]]
        layer = model.get_submodule(member.layer)
        inputs, outputs = (places, None) if member.side == "inputs" else (None, places)
        keep_channels(layer, inputs, outputs)


def test_l1_is_the_mean_of_the_layers_relative_norms() -> None:
    model = stock("cifar", "resnet8", shortcut="B")
    block = model.layer2[0]
    groups = find_groups(model, (3, 32, 32))[0]
    group = next(
        group for group in groups if "layer2.0.conv2" in [m.layer for m in group.members if m.side == "outputs"]
    )
    after = model.layer3[0]
    norms = [layer.weight.abs().sum((1, 2, 3)) for layer in (block.conv2, block.shortcut[0])]
    norms += [layer.weight.abs().sum((0, 2, 3)) for layer in (after.conv1, after.shortcut[0])]
    expected = sum(norm / norm.mean() for norm in norms) / 4
    assert torch.allclose(IMPORTANCE.bind("l1")(model, group, Evidence()), expected, rtol=1e-5)
