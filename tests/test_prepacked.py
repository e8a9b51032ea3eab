"""Convolutions with weights laid out once give what PyTorch's own give, and leave alone what they can't run."""

import pytest
import torch
from torch import nn

from rescompress import graph, prepacked
from tests.networks import captured, noise

CASES = [
    {},
    {"stride": 2, "padding": 1},
    {"dilation": 2, "padding": 2, "bias": False},
    {"groups": 4},
    {"groups": 8, "padding": (1, 0)},
]


def _traced(layer: nn.Module) -> graph.fx.GraphModule:
    return graph.capture(layer.eval(), (8, 13, 12))


@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize("arguments", CASES)
def test_a_convolution_is_the_same_for_any_batch(arguments: dict[str, object], batch: int) -> None:
    traced = _traced(nn.Conv2d(8, 16, 3, **arguments))  # type: ignore[arg-type]
    instead = prepacked.convolutions(traced, 3)
    assert len(instead) == 1
    images = torch.randn(batch, 8, 13, 12)
    with torch.no_grad():
        made = graph.watch(traced, images, lambda node, x: None, instead)
        torch.testing.assert_close(made, traced(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "architecture"), [("cifar", "resnet8"), ("se", "se_resnet18")])
def test_a_network_shows_the_same_values(family: str, architecture: str) -> None:
    traced = captured(family, architecture, side=32)
    images = noise(traced, 2)
    found: list[dict[str, torch.Tensor]] = [{}, {}]
    with torch.no_grad():
        for values, instead in zip(found, ({}, prepacked.convolutions(traced, 2)), strict=True):
            graph.watch(traced, images, lambda node, x, values=values: values.update({node.name: x}), instead)
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-4)


def test_weights_are_those_of_the_moment() -> None:
    traced, images = _traced(nn.Conv2d(8, 4, 3)), torch.randn(2, 8, 13, 12)
    with torch.no_grad():
        before = traced(images)
        instead = prepacked.convolutions(traced, 2)
        for weight in traced.parameters():
            weight.zero_()
        torch.testing.assert_close(graph.watch(traced, images, lambda node, x: None, instead), before)


def test_what_is_no_plain_float32_convolution_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._conv_forward(x, self.weight * 2, self.bias)

    assert not prepacked.convolutions(_traced(Scaled(8, 4, 3)), 2)
    assert not prepacked.convolutions(_traced(nn.Sequential(nn.Conv2d(8, 4, 3))).double(), 2)
    plain = _traced(nn.Conv2d(8, 4, 3))
    assert prepacked.convolutions(plain, 2)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not prepacked.convolutions(plain, 2)
