"""After the guard no input can make a pair of products pass 16 bits, and nothing else was touched."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from rescompress import fakequant, graph
from rescompress.placement import place
from rescompress.quantization import guard as guarding
from rescompress.quantization import saturation
from rescompress.quantization.guard import guard
from rescompress.quantization.ranges import set_activation, set_weight
from rescompress.schemes import QuantScheme
from rescompress.spec import CIFAR
from tests.networks import custom
from tests.test_placement import SCHEMES


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 4, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.conv2(self.conv1(images).relu()).relu().mean((2, 3)))


@functools.cache
def inserted(scheme: QuantScheme) -> fx.GraphModule:
    traced = graph.capture(custom(TwoLayers()), (3, 8, 8))
    fakequant.insert(traced, place(traced, scheme))
    return traced


def quantized(seed: int = 0, scheme: QuantScheme = SCHEMES["onnxruntime"]) -> fx.GraphModule:
    """All weights of a channel are close to its largest, of either sign, so that some pairs overflow."""
    traced = graph.clone(inserted(scheme))
    generator = torch.Generator().manual_seed(seed)
    for node in layers(traced):
        weight = graph.tensor_of(traced, node.args[1].args[0])
        draw = torch.rand(2, *weight.shape, generator=generator)
        weight.data = (0.4 + draw[0]) * (draw[1] - 0.3).sign()
    sites = fakequant.sites_of(traced)
    for site in sites:
        if not site.is_weight:
            set_activation(fakequant.quantizer_of(traced, site), -1.0 if site.value == graph.INPUT else 0.0, 2.0)
    for node in layers(traced):
        set_weight(traced, node)
    return traced


def layers(traced: fx.GraphModule) -> list[fx.Node]:
    return [node for node in traced.graph.nodes if graph.op_of(node) in ("conv", "linear")]


def steps_of(traced: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor]:
    """Weights in steps ``[o, k]`` as they are lowered, and the scales."""
    quantizer = fakequant.quantizer_behind(traced, node.args[1])
    weight = graph.tensor_of(traced, node.args[1].args[0]).detach()
    scale = quantizer.scale.double().expand(len(weight))
    return (weight.flatten(1).double() / scale[:, None]).round().clamp(-127, 127).long(), scale


def worst(traced: fx.GraphModule, node: fx.Node, largest: Tensor) -> int:
    """The largest magnitude that a pair of products can reach, over all corners of the inputs' box."""
    steps, _ = steps_of(traced, node)
    weight = graph.tensor_of(traced, node.args[1].args[0])
    positions = weight[0, 0].numel()
    found = 0
    for packing in ("rows", "blocks"):
        for k, j in saturation.pairs(weight.shape[1], positions, packing).tolist():
            for x in (0, int(largest[k // positions])):
                for other in (0, int(largest[j // positions])):
                    both = steps[:, k] * x + steps[:, j] * other
                    found = max(found, int(both.max()), -int(both.min()) - 1)
    return found


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_no_pair_overflows_and_a_second_time_changes_nothing(seed: int) -> None:
    traced = quantized(seed)
    full = torch.full((8,), 255)
    assert max(worst(traced, node, full) for node in layers(traced)) > 32767
    guarded = guard(traced, {}, "avx2")
    assert guarded
    assert max(worst(traced, node, full) for node in layers(traced)) <= 32767
    assert guard(traced, {}, "avx2") == ()
    images = 2 * torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        for packing in ("rows", "blocks"):
            saturating = saturation.Saturating(traced, packing).run(images)
            assert torch.allclose(saturating, traced(images), atol=0.05 * float(saturating.abs().max()))


def test_the_factor_is_the_least_where_no_weight_moved() -> None:
    traced = quantized()
    before = {graph.name_of(node): steps_of(traced, node) for node in layers(traced)}
    for layer in guard(traced, {}, "avx2"):
        node = next(node for node in layers(traced) if graph.name_of(node) == layer.layer)
        _, scale = steps_of(traced, node)
        grown = scale / before[layer.layer][1]
        assert (grown >= 1 - 1e-6).all()
        assert (grown <= 2 + 1e-5).all()
        assert float(grown.max()) == pytest.approx(layer.widest, rel=1e-5)
        assert layer.weight_after_db <= layer.weight_before_db


def test_it_costs_no_more_than_the_least_factor_alone() -> None:
    traced = quantized()
    node = layers(traced)[0]
    w = graph.tensor_of(traced, node.args[1].args[0]).detach().flatten(1).double()
    _, scale = steps_of(traced, node)
    found = [saturation.pairs(3, 9, packing) for packing in ("rows", "blocks")]
    reach = torch.full(w.shape, 255)
    least = guarding._least_factor(w, scale, reach, found)
    wide = guarding._steps(w, scale * least)
    assert not guarding._any_overflows(wide, reach, found).any()
    tight = guarding._steps(w, scale * (least * (1 - 1e-5)))
    assert (guarding._any_overflows(tight, reach, found) | (least < 1 + 1e-4)).all()
    guard(traced, {}, "avx2")
    error = fakequant.quantizer_behind(traced, node.args[1])(graph.tensor_of(traced, node.args[1].args[0])).detach()
    error = ((error.flatten(1).double() - w) ** 2).sum(1)
    assert (error <= ((wide * (scale * least)[:, None] - w) ** 2).sum(1) * (1 + 1e-5)).all()


def test_weights_on_the_grid_cost_no_more_than_the_two_steps_that_are_over() -> None:
    """As AdaRound leaves them; 65 + 65 at 255 is over by two steps."""
    traced = quantized()
    node = layers(traced)[0]
    steps = torch.randint(-30, 31, (8, 3, 3, 3), generator=torch.Generator().manual_seed(0))
    steps[:, 2, 2, 2] = 127
    steps[0, :2, 0, 0] = 65
    _, scale = steps_of(traced, node)
    graph.tensor_of(traced, node.args[1].args[0]).data = (steps * scale.view(-1, 1, 1, 1)).float()
    (layer, *_) = guard(traced, {}, "avx2")
    after, same = steps_of(traced, node)
    assert (layer.layer, layer.channels, layer.of) == ("conv1", 1, 8)
    assert torch.equal(scale[1:], same[1:])
    assert torch.equal(after[1:], steps.flatten(1)[1:])
    assert ((after[0] * same[0] / scale[0] - steps.flatten(1)[0]) ** 2).sum() <= 2 + 1e-3


def test_channels_that_stay_small_need_no_guard() -> None:
    traced = quantized()
    scale = 3.0 / 255
    known = {graph.INPUT: torch.tensor([[-1.0, 0.0]] * 3)}
    before = steps_of(traced, layers(traced)[0])
    guard(traced, known, "avx2")
    after = steps_of(traced, layers(traced)[0])
    zero_point = int(fakequant.quantizer_behind(traced, layers(traced)[0].args[0]).zero_point[0])
    assert zero_point == round(1 / scale)
    assert all(torch.equal(*both) for both in zip(before, after, strict=True))
    assert worst(traced, layers(traced)[0], torch.full((3,), zero_point)) <= 32767


@pytest.mark.parametrize("cpu", ["vnni", "arm"])
def test_other_kernels_need_no_guard(cpu: str) -> None:
    traced = quantized()
    before = [steps_of(traced, node)[1] for node in layers(traced)]
    assert guard(traced, {}, cpu) == ()
    assert all(torch.equal(a, steps_of(traced, node)[1]) for a, node in zip(before, layers(traced), strict=True))


def test_signed_activations_need_no_guard() -> None:
    assert guard(quantized(scheme=SCHEMES["symmetric per tensor"]), {}, "avx2") == ()


def test_black_and_white_are_the_ends_of_an_image() -> None:
    low, high = guarding.pixel_extremes(CIFAR).T
    for channel in range(3):
        assert float(low[channel]) == pytest.approx((0 - CIFAR.mean[channel]) / CIFAR.std[channel])
        assert float(high[channel]) == pytest.approx((1 - CIFAR.mean[channel]) / CIFAR.std[channel])


def test_the_sentence_names_layers_and_what_was_gained() -> None:
    layer = guarding.Guarded("conv1", 5, 16, 1.9, 0, 45.0, 41.0)
    told = guarding.sentence([layer] * 4, 14.2, 31.9)
    assert "5 of 16 channels of conv1" in told
    assert "and 1 more layers" in told
    assert "from 14.2 to 31.9 dB" in told
