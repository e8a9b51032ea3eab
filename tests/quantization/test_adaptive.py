"""The choice among ranges: against each reader computed by hand, and on networks where one range is plainly best."""

import pytest
import torch
from torch import Tensor, fx, nn

from rescompress import fakequant, graph
from rescompress.placement import place
from rescompress.quantization import OBSERVERS
from rescompress.quantization.adaptive import choose
from rescompress.quantization.grid import Range
from rescompress.quantization.histogram import Histogram
from rescompress.quantization.ranges import set_activation, set_ranges, set_weights
from rescompress.sites import Site
from tests.networks import custom
from tests.test_placement import SCHEMES

WIDE, NARROW = (0.0, 40.0), (0.0, 4.0)


class Two(nn.Module):
    """Two convolutions read one value; each looks at channels of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.one(images)) + self.other(images)


def spiking(count: int = 4) -> Tensor:
    """Images whose third channel has a spike of 40 in each; all else lies in [0, 4]."""
    images = 4 * torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images[:, 2, 0, 0] = 40
    return images


def quantized(model: nn.Module) -> tuple[fx.GraphModule, tuple[Site, ...]]:
    traced = graph.capture(custom(model), (3, 8, 8))
    names = [name for name in graph.values(traced) if name.endswith(".weight")]
    sites = (Site(graph.INPUT, graph.INPUT, "uint8"), *(Site(name, name, "int8", 4) for name in names))
    fakequant.insert(traced, sites)
    set_weights(traced)
    return traced, sites


def chosen(model: nn.Module, *ranges: Range) -> Range:
    traced, _ = quantized(model)
    return choose(traced, {graph.INPUT: ranges}, [spiking()])[graph.INPUT]


def blind_to_spikes() -> Two:
    model = Two()
    for conv in (model.one, model.other):
        conv.weight.data[:, 2] = 0
    return model


def test_readers_that_ignore_a_channel_let_its_spike_be_clipped() -> None:
    assert chosen(blind_to_spikes(), WIDE, NARROW) == NARROW


def test_readers_that_live_on_the_spike_keep_it() -> None:
    model = Two()
    for conv in (model.one, model.other):
        conv.weight.data[:, :2] *= 0.01
    assert chosen(model, NARROW, WIDE) == WIDE


def test_every_reader_counts() -> None:
    """Clipped, the second one's output is all but lost; to the first it makes no difference worth that."""
    model = blind_to_spikes()
    model.other.weight.data[:, :2], model.other.weight.data[:, 2] = 0, 1
    model.other.bias.data.zero_()
    assert chosen(model, NARROW, WIDE) == WIDE


@torch.no_grad()
def test_the_ratio_is_that_of_the_layers_computed_by_hand() -> None:
    torch.manual_seed(3)
    model, images = Two(), spiking()
    traced, sites = quantized(model)
    x, *_ = (fakequant.quantizer_of(traced, site) for site in sites)
    candidates = [(0.0, high) for high in (2.0, 5.0, 10.0, 20.0, 30.0, 40.0)]
    by_hand = []
    for low, high in candidates:
        set_activation(x, low, high)
        total = 0.0
        for name, after in (("one", torch.relu), ("other", torch.nn.Identity())):
            conv = getattr(model, name)
            rounded = fakequant.quantizer_of(traced, next(s for s in sites if s.value == f"{name}.weight"))
            wanted = after(conv(images))
            made = after(nn.functional.conv2d(x(images), rounded(conv.weight), conv.bias))
            total += float(((made - wanted) ** 2).sum() / (wanted**2).sum())
        by_hand.append(total)
    best = candidates[by_hand.index(min(by_hand))]
    assert choose(traced, {graph.INPUT: candidates}, images.split(1))[graph.INPUT] == best


def test_the_first_wins_where_nothing_differs_or_nothing_is_shown() -> None:
    traced, _ = quantized(Two())
    assert choose(traced, {graph.INPUT: [NARROW, WIDE]}, []) == {graph.INPUT: NARROW}
    assert choose(traced, {graph.INPUT: [WIDE, WIDE, NARROW]}, [torch.zeros(1, 3, 8, 8)])[graph.INPUT] == WIDE


def test_one_range_needs_no_images() -> None:
    traced, _ = quantized(Two())

    def never() -> Tensor:
        raise AssertionError

    assert choose(traced, {graph.INPUT: [WIDE]}, (never() for _ in range(1))) == {graph.INPUT: WIDE}


def test_choosing_leaves_the_network_as_it_was() -> None:
    traced, _ = quantized(Two())
    before, images = {k: v.clone() for k, v in traced.state_dict().items()}, spiking()
    answer = traced(images)
    choose(traced, {graph.INPUT: [WIDE, NARROW]}, [images])
    assert torch.equal(traced(images), answer)
    assert all(torch.equal(before[k], v) for k, v in traced.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("symmetric", [False, True])
def test_adaptive_is_at_least_as_near_as_each_observer_alone(symmetric: bool) -> None:
    """One reader and the same images: what it minimizes is what is measured; ranges that are all but equal are one."""
    torch.manual_seed(0)
    model = custom(nn.Sequential(nn.Conv2d(3, 4, 3)))
    images = torch.randn(8, 3, 8, 8) ** 3
    traced = graph.capture(model, (3, 8, 8))
    dtype = "int8" if symmetric else "uint8"
    sites = (Site(graph.INPUT, graph.INPUT, dtype, symmetric=symmetric), Site("0.weight", "0.weight", "int8", 4))
    fakequant.insert(traced, sites)
    made = Histogram()
    made.update(images)
    wanted, error = model(images), {}
    for name in ("adaptive", "minmax", "percentile", "entropy", "mse"):
        set_ranges(traced, {graph.INPUT: made}, OBSERVERS.bind(name), [images])
        error[name] = float((traced(images) - wanted).square().sum())
    assert error["adaptive"] <= min(error.values()) * 1.05
    assert len(set(error.values())) > 2


class Spiking(nn.Module):
    """Eight channels that tell ten classes apart, and a ninth that hardly counts, but spikes on few pixels."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 9, 3), nn.Conv2d(9, 10, 3)
        one = self.conv(images)[:, 0]
        threshold = one.flatten().kthvalue(int(one.numel() * 0.999)).values
        gain = 500 * one.max() / (one.max() - threshold)
        self.conv.weight.data[8] = self.conv.weight[0] * gain
        self.conv.bias.data[8] = (self.conv.bias[0] - threshold) * gain
        self.head.weight.data[:, 8] *= 1e-5
        self.head.bias.data -= self(images).mean(0)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(images))).mean((2, 3))


@torch.no_grad()
def test_a_spiking_channel_costs_minmax_the_classes_and_adaptive_none() -> None:
    torch.manual_seed(0)
    images = torch.randn(512, 3, 10, 10)
    model = custom(Spiking(images), side=10)
    traced = graph.capture(model, (3, 10, 10))
    sites = place(traced, SCHEMES["onnxruntime"])
    made = {site.quantizer: Histogram() for site in sites if not site.is_weight}

    def seen(node: fx.Node, value: Tensor) -> None:
        if node.meta.get("value_name") in made:
            made[graph.name_of(node)].update(value)

    graph.watch(traced, images, seen)
    fakequant.insert(traced, sites)
    agreement = {}
    for name in ("minmax", "adaptive"):
        set_ranges(traced, made, OBSERVERS.bind(name), [images[:32]])
        agreement[name] = float((traced(images).argmax(1) == model(images).argmax(1)).float().mean())
    assert agreement["minmax"] < 0.8
    assert agreement["adaptive"] > 0.95
