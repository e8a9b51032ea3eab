"""Correction: means and deviations are the float network's afterwards, and integers stay."""

import pytest
import torch
from torch import fx

from rescompress import fakequant, graph
from rescompress.backends.onnxruntime import SCHEME
from rescompress.placement import place
from rescompress.quantization.channels import Channels, channels_of, watch_channels
from rescompress.quantization.correction import correct
from rescompress.quantization.ranges import set_weight
from tests.networks import captured, noise

COARSE = 12.0
"""Scales so many times too large round so hard that there is much to correct."""


def rounded(coarse: float = COARSE) -> tuple[fx.GraphModule, torch.Tensor]:
    """A small ResNet with fake-quants on a coarse grid, and images."""
    traced = graph.clone(captured("cifar", "resnet8", side=16))
    images = noise(traced, 8)
    found = watch_channels(traced, [images])
    sites = place(traced, SCHEME)
    fakequant.insert(traced, sites)
    for site in sites:
        quantizer = fakequant.quantizer_of(traced, site)
        if not site.is_weight:
            low, high = float(found[site.quantizer].low.min()), float(found[site.quantizer].high.max())
            quantizer.scale.fill_((max(high, 0) - min(low, 0)) / 255)
            quantizer.zero_point.fill_(round(-min(low, 0) / float(quantizer.scale)))
    for node in traced.graph.nodes:
        if graph.op_of(node) in ("conv", "linear"):
            set_weight(traced, node)
            behind = fakequant.quantizer_behind(traced, node.args[1])
            if behind is not None:
                behind.scale.mul_(coarse)
    return traced, images


def watched(traced: fx.GraphModule, images: torch.Tensor) -> dict[str, Channels]:
    """Statistics of each layer with a bias, rounding included."""
    found = {}

    def note(node: fx.Node, x: object) -> None:
        if graph.op_of(node) in ("conv", "linear") and len(node.args) > 2 and node.args[2] is not None:
            assert isinstance(x, torch.Tensor)
            found[graph.name_of(node)] = channels_of(x)

    with torch.no_grad():
        graph.watch(traced, images, note)
    return found


def test_statistics_are_those_of_all_images_together() -> None:
    traced = captured("cifar", "resnet8", side=16)
    images = noise(traced, 8)
    one, two = watch_channels(traced, [images]), watch_channels(traced, [images[:3], images[3:]])
    with torch.no_grad():
        logits = traced(images)
    assert torch.allclose(one["linear"].mean, logits.mean(0).double(), atol=1e-6)
    assert torch.allclose(one["linear"].deviation, logits.std(0, correction=0).double(), atol=1e-4)
    for name, channels in one.items():
        assert torch.equal(channels.low, two[name].low)
        assert torch.equal(channels.high, two[name].high)
        assert torch.allclose(channels.mean, two[name].mean, atol=1e-6)
        assert torch.allclose(channels.square, two[name].square, atol=1e-6)


@pytest.mark.parametrize("how", ["empirical", "moments"])
def test_layers_put_out_the_float_networks_means(how: str) -> None:
    traced, images = rounded()
    wanted, before = watch_channels(traced, [images]), watched(traced, images)
    correct(traced, images, how)  # type: ignore[arg-type]
    after = watched(traced, images)
    for name in after:
        off = (before[name].mean - wanted[name].mean).abs().max()
        assert off > 1e-3, f"{name} had nothing to correct"
        assert (after[name].mean - wanted[name].mean).abs().max() < off / 20


def test_moments_bring_the_deviations_too() -> None:
    traced, images = rounded()
    wanted = watch_channels(traced, [images])
    quantizer = fakequant.quantizer_of(traced, next(s for s in fakequant.sites_of(traced) if s.value == "conv1.weight"))
    integers = (traced.get_parameter("conv1.weight") / quantizer.scale.view(-1, 1, 1, 1)).round()
    correct(traced, images, "moments")
    for name, channels in watched(traced, images).items():
        if name != "linear":
            assert torch.allclose(channels.deviation, wanted[name].deviation, rtol=0.02, atol=1e-3), name
    now = (traced.get_parameter("conv1.weight") / quantizer.scale.view(-1, 1, 1, 1)).round()
    assert (now != integers).float().mean() < 0.01


def test_analytic_correction_is_the_weights_error_times_the_input() -> None:
    traced, images = rounded()
    mean = watch_channels(traced, [images])["flatten" if "flatten" in graph.values(traced) else _input(traced)].mean
    weight, old = traced.get_parameter("linear.weight"), traced.get_parameter("linear.bias").clone()
    quantizer = next(
        fakequant.quantizer_of(traced, site) for site in fakequant.sites_of(traced) if site.value == "linear.weight"
    )
    error = (quantizer(weight) - weight).detach().double()
    correct(traced, images, "analytic")
    assert torch.allclose(traced.get_parameter("linear.bias").double(), old.double() - error @ mean, atol=1e-6)


def _input(traced: fx.GraphModule) -> str:
    node = next(node for node in traced.graph.nodes if graph.op_of(node) == "linear")
    source = node.args[0]
    return graph.name_of(source.args[0] if source.op == "call_module" else source)


def test_correction_brings_the_logits_nearer() -> None:
    traced, images = rounded(4.0)
    with torch.no_grad():
        with fakequant.passing(traced):
            wanted = traced(images)
        before = (traced(images) - wanted).square().mean()
        correct(traced, images)
        assert (traced(images) - wanted).square().mean() < before


def test_the_aim_is_the_float_network_also_where_rounded_weights_were_written() -> None:
    traced, images = rounded()
    exact = graph.clone(traced)
    for node in traced.graph.nodes:
        quantizer = fakequant.quantizer_behind(traced, node)
        if quantizer is not None and quantizer.site.is_weight:
            weight = graph.tensor_of(traced, node.args[0])
            weight.data.copy_(quantizer(weight))
    correct(traced, images, "moments", exact)
    wanted, seen = watch_channels(exact, [images]), watched(traced, images)
    assert all(torch.allclose(seen[name].mean, wanted[name].mean, atol=1e-4) for name in seen)
