"""What a network costs, against numbers that the field knows."""

from math import prod

import pytest
from torch import nn

from rescompress.cost import layer_costs, total_cost
from tests.networks import captured, quantized, stock


def norm_channels(model: nn.Module) -> int:
    """Folding a BatchNorm turns its scale and shift into one bias, so a channel has one parameter less."""
    return sum(module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d))


def test_resnet18_costs_what_torchvision_says() -> None:
    """Torchvision counts 1,000 classes and 224 x 224 pixels: here are 10, and 64 x 64."""
    model, cost = stock("torchvision", "resnet18", side=64), total_cost(captured("torchvision", "resnet18", side=64))
    assert cost.params + norm_channels(model) == 11_689_512 - 990 * (512 + 1)
    assert cost.macs == (1_814_073_344 - 1000 * 512) * 64**2 / 224**2 + 10 * 512


@pytest.mark.slow
def test_resnet50_costs_what_torchvision_says() -> None:
    model, cost = stock("torchvision", "resnet50", 1000), total_cost(captured("torchvision", "resnet50", 1000))
    assert cost.params + norm_channels(model) == 25_557_032
    assert cost.macs == 4_089_184_256
    assert cost.weight_bytes == 4 * cost.params


def test_cifar_resnet20_has_the_papers_size() -> None:
    """0.27 M parameters in He et al., table 6; the shortcuts' fixed weights count in MACs, because they run."""
    stem_and_stages = 442_368 + 14_155_776 + 2 * 12_976_128
    shortcuts = 2 * 131_072
    cost = total_cost(stock("cifar", "resnet20"))
    assert (cost.params, cost.macs) == (269_722, stem_and_stages + shortcuts + 640)
    fixed, statistics = 16 * 32 + 32 * 64, 2 * norm_channels(stock("cifar", "resnet20"))
    assert cost.weight_bytes == 4 * (cost.params + fixed + statistics)


def test_layers_are_listed_in_order_and_add_up() -> None:
    model = captured("cifar", "resnet8")
    layers = layer_costs(model)
    assert [layer.layer for layer in layers][:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert (layers[-1].layer, layers[-1].op, layers[-1].output_shape) == ("linear", "linear", (10,))
    assert layers[0].macs == 16 * 3 * 3 * 3 * prod(layers[0].output_shape[1:])
    assert layers[0].output_shape == (16, 32, 32)
    cost = total_cost(model)
    assert sum(layer.macs for layer in layers) == cost.macs
    assert sum(layer.params for layer in layers) == cost.params


def test_a_fixed_shortcut_has_no_parameters_but_works() -> None:
    (shortcut, *_) = (layer for layer in layer_costs(captured("cifar", "resnet8")) if layer.layer.endswith("shortcut"))
    assert (shortcut.params, shortcut.macs) == (0, 16 * 32 * 16 * 16)


def test_int8_weights_take_about_a_quarter() -> None:
    whole, small = (total_cost(model) for model in (captured("cifar", "resnet8"), quantized("cifar", "resnet8")))
    assert (small.params, small.macs) == (whole.params, whole.macs)
    assert 0.25 < small.weight_bytes / whole.weight_bytes < 0.28
    assert {layer.weight_bits for layer in layer_costs(quantized("cifar", "resnet8"))} == {8}
    assert {layer.weight_bits for layer in layer_costs(captured("cifar", "resnet8"))} == {32}
