"""What a model's layers look like to a clock."""

import pytest
import torch
from torch import nn

from rescompress import models
from rescompress.benchmarking.layers import LayerShape, shapes_of
from rescompress.cost import total_cost


@pytest.fixture(scope="module")
def resnet():
    return models.build(models.spec("cifar", "resnet8", 10))


def test_every_layer_is_there_in_order_of_execution(resnet):
    shapes = shapes_of(resnet)
    assert list(shapes)[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert shapes["layer2.0.conv1"] == LayerShape("conv", 16, 32, (3, 3), (2, 2), (1, 1), height=32, width=32)
    assert shapes["linear"] == LayerShape("linear", 64, 10)


def test_macs_are_those_of_the_cost(resnet):
    assert sum(shape.macs for shape in shapes_of(resnet).values()) == total_cost(resnet).macs


def test_each_sum_is_counted_once(resnet):
    summed = [name for name, shape in shapes_of(resnet).items() if shape.added]
    assert len(summed) == 3
    assert summed[0] == "layer1.0.conv2"


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (3, 2, 1, 1), (1, 2, 0, 1), (5, 2, 2, 2), (7, 2, 3, 1)]
)
def test_output_is_as_large_as_pytorch_makes_it(kernel, stride, padding, dilation):
    real = nn.Conv2d(2, 3, kernel, stride, padding, dilation)(torch.zeros(1, 2, 17, 12)).shape
    sides = [(side, side) for side in (kernel, stride, padding, dilation)]
    assert LayerShape("conv", 2, 3, *sides, height=17, width=12).output_size == tuple(real[2:])
