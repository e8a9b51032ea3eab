"""Equalization: equal to the bit in FP32, even channels afterwards, and what must not be touched."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from benchmarks import pathologies
from rescompress import graph, models
from rescompress.context import Context
from rescompress.fusion import fuse
from rescompress.quantization.channels import watch_channels
from rescompress.quantization.equalization import absorb, equalize
from rescompress.quantization.remedies import choose, layer_sqnr_db
from rescompress.quantization.streams import streams_of
from tests.networks import cached, captured, custom, noise, stock


class Small(nn.Module):
    """Two paths that are added, then pooled and classified; the knobs turn parts on and off."""

    def __init__(self, groups: int, pool: bool, flat: bool, shared: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=groups)
        self.second = self.grouped if shared else nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(64 if flat else 4, 3)
        self.pool, self.flat = pool, flat

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[n, 3]``."""
        x = self.first(x).relu()
        x = nn.functional.max_pool2d(x, 2) if self.pool else nn.functional.avg_pool2d(x, 2)
        x = (self.second(self.grouped(x).relu()) + x).relu()
        return self.head(x.flatten(1) if self.flat else x.mean((2, 3)))


def traced_of(model: nn.Module, side: int = 8) -> fx.GraphModule:
    return graph.capture(graph.clone(model).eval(), (3, side, side))


@cached
def _spoiled(part: str) -> fx.GraphModule:
    model = stock("cifar", "resnet8", side=16)
    made = models.describe(pathologies.PARTS[part](model, noise(model, 8)), models.spec_of(model))
    return traced_of(fuse(made, Context()), 16)


@cached
def _small(groups: int, pool: bool, flat: bool, shared: bool) -> fx.GraphModule:
    return traced_of(Small(groups, pool, flat, shared))


def spoiled(part: str) -> tuple[fx.GraphModule, fx.GraphModule, Tensor]:
    """The healthy and the spoiled small ResNet, captured, and images."""
    healthy = captured("cifar", "resnet8", side=16)
    return healthy, graph.clone(_spoiled(part)), noise(healthy, 8)


@given(
    groups=st.sampled_from([1, 2, 4]),
    pool=st.booleans(),
    flat=st.booleans(),
    shared=st.booleans(),
    shown=st.booleans(),
    powers=st.lists(st.integers(-10, 10), min_size=4, max_size=4),
    zero=st.sampled_from(["nothing", "row", "column", "both"]),
)
def test_the_output_stays_equal_to_the_bit(
    groups: int, pool: bool, flat: bool, shared: bool, shown: bool, powers: list[int], zero: str
) -> None:
    generator = torch.Generator().manual_seed(sum(powers))
    traced = graph.clone(_small(groups, pool, flat, shared))
    with torch.no_grad():
        images = torch.randn(3, 3, 8, 8, generator=generator)
        for parameter in traced.parameters():
            parameter.normal_(generator=generator)
        traced.get_parameter("first.weight").mul_((2.0 ** torch.tensor(powers))[:, None, None, None])
        if zero in ("row", "both"):
            traced.get_parameter("grouped.weight")[1] = 0
            traced.get_parameter("grouped.bias")[1] = 0
        if zero in ("column", "both") and not shared:
            traced.get_parameter("second.weight")[:, 1] = 0
        before = traced(images)
        equalize(traced, watch_channels(traced, [images]) if shown else None)
        assert torch.equal(traced(images), before)
    assert all(bool(p.isfinite().all()) for p in traced.parameters())


@pytest.mark.parametrize("part", ["uneven", "streams"])
@pytest.mark.parametrize("shown", [True, False])
def test_spoiled_channels_are_mended(part: str, shown: bool) -> None:
    healthy, traced, images = spoiled(part)
    before = traced(images)
    assert torch.allclose(before, healthy(images), rtol=1e-4, atol=1e-4), "the sabotage keeps the function"
    assert min(layer_sqnr_db(traced, watch_channels(traced, [images])).values()) < 10
    assert equalize(traced, watch_channels(traced, [images]) if shown else None) > 0
    assert torch.equal(traced(images), before)
    assert min(layer_sqnr_db(traced, watch_channels(traced, [images])).values()) > 25


def test_an_even_network_is_left_alone_the_second_time() -> None:
    _, traced, _ = spoiled("streams")
    equalize(traced)
    state = copy.deepcopy(traced.state_dict())
    assert equalize(traced) == 0
    assert all(torch.equal(tensor, state[name]) for name, tensor in traced.state_dict().items())


def test_fixed_shortcuts_stay_and_tie_what_they_copy() -> None:
    healthy, traced, _ = spoiled("streams")
    buffers = {name: tensor.clone() for name, tensor in traced.named_buffers()}
    equalize(traced)
    assert buffers
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in traced.named_buffers())
    of = {graph.name_of(node): channels for node, channels in streams_of(healthy).of.items()}
    sources = stock("cifar", "resnet8", side=16).layer2[0].shortcut.sources
    for j, source in enumerate(sources):
        same = source >= 0 and bool(of["layer2.0.add"][j] == of["layer1.0.add"][source])
        assert same == (source >= 0)


def test_steps_that_are_not_known_keep_their_scale() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 4, 1), nn.ReLU6(), nn.Conv2d(4, 3, 1))
    traced = traced_of(custom(model))
    streams = streams_of(traced)
    assert not any(bool(streams.of[layer].any()) for layer in streams.layers)
    assert equalize(traced) == 0


@torch.no_grad()
def test_absorption_is_exact_on_the_images_that_were_seen() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 3))
    model[0].bias += torch.tensor([50.0, 0.0, 20.0, -50.0])
    traced, images = traced_of(custom(model)), torch.randn(4, 3, 8, 8)
    before = traced(images)
    assert choose(traced, watch_channels(traced, [images])).absorb
    assert absorb(traced, watch_channels(traced, [images])) == 2
    assert torch.allclose(traced(images), before, atol=1e-3)
    assert float(watch_channels(traced, [images])["1"].low.max()) < 1e-4
    assert float(traced.get_parameter("0.bias").max()) < 30


@pytest.mark.parametrize("padding", [0, 1])
@torch.no_grad()
def test_nothing_is_absorbed_into_a_padded_layer(padding: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=padding, groups=2))
    model[0].bias += 50.0
    traced, images = traced_of(custom(model)), torch.randn(4, 3, 8, 8)
    before = traced(images)
    assert absorb(traced, watch_channels(traced, [images])) == (0 if padding else 4)
    assert torch.allclose(traced(images), before, atol=1e-3)


@torch.no_grad()
def test_a_channel_read_by_inner_weights_alone_is_absorbed_under_padding() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), conv)
    model[0].bias += 50.0
    inner = torch.zeros(3, 3)
    inner[1, 1] = 1
    conv.weight[2:, 1] *= inner
    traced, images = traced_of(custom(model)), torch.randn(4, 3, 8, 8)
    before = traced(images)
    assert absorb(traced, watch_channels(traced, [images])) == 1
    assert torch.allclose(traced(images), before, atol=1e-3)
    assert float(watch_channels(traced, [images])["1"].low[3]) < 1e-3
    assert float(watch_channels(traced, [images])["1"].low[:3].min()) > 30


@pytest.mark.parametrize(("part", "ill"), [("healthy", False), ("uneven", True), ("dead", True), ("spikes", True)])
def test_pathologies_choose_the_remedy(part: str, ill: bool) -> None:
    _, traced, images = spoiled(part)
    remedies = choose(traced, watch_channels(traced, [images]))
    assert remedies.equalize == ill
    assert set(remedies.reasons) == {"equalize", "absorb"}
    assert all(reason.endswith(".") for reason in remedies.reasons.values())
