"""Layers, blocks and groups of every kind of network, against what one knows of it."""

import math
from math import prod

import pytest
import torch
from torch import Tensor, nn

from rescompress import models, pruning
from rescompress.context import Context
from rescompress.cost import total_cost
from rescompress.data import batches
from rescompress.errors import RecipeError
from rescompress.graph import clone
from rescompress.inspection import inspect
from rescompress.metrics import sqnr_db
from rescompress.models._torchvision_import import import_torchvision
from rescompress.models.preact import PreActBlock
from rescompress.models.se import SEBasicBlock
from rescompress.views import Inspection
from tests.networks import context, custom, enliven, fused, quantized, same, snapshot, stock

pytestmark = pytest.mark.xdist_group("inspect")


def around(*blocks: nn.Module, inputs: int = 16, outputs: int = 32) -> nn.Module:
    """A network of these blocks."""
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, 3)]
    return enliven(custom(nn.Sequential(nn.Conv2d(3, inputs, 3, 2, 1), *blocks, *head), side=32))


def bottlenecks(groups: int = 1) -> nn.Module:
    """torchvision's own block twice, once with a projection."""
    import_torchvision()
    from torchvision.models.resnet import Bottleneck

    projection = nn.Sequential(nn.Conv2d(64, 128, 1, 2, bias=False), nn.BatchNorm2d(128))
    first, second = Bottleneck(64, 16, groups=groups), Bottleneck(64, 32, 2, projection, groups=groups)
    return around(first, second, inputs=64, outputs=128)


NETWORKS = {
    "with BatchNorms": lambda: stock("cifar", "resnet8"),
    "fused": lambda: fused("cifar", "resnet8"),
    "INT8": lambda: quantized("cifar", "resnet8"),
    "pruned": lambda: pruning.prune(stock("cifar", "resnet8"), Context(), ratio=0.5),
    "bottlenecks": lambda: bottlenecks(),
    "grouped": lambda: bottlenecks(groups=4),
    "gates": lambda: around(SEBasicBlock(16, 16, 1, 4), SEBasicBlock(16, 32, 2, 4)),
    "pre-activation": lambda: around(PreActBlock(16, 16, 1), PreActBlock(16, 32, 2), nn.BatchNorm2d(32), nn.ReLU()),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Inspection]:
    model = NETWORKS[request.param]()
    return request.param, model, inspect(model)


def test_totals_are_those_of_cost(network: tuple[str, nn.Module, Inspection]) -> None:
    _, model, found = network
    cost, total = total_cost(model), found.total
    assert (total.params, total.macs, total.weight_bytes) == (cost.params, cost.macs, cost.weight_bytes)
    assert sum(layer.macs for layer in found.layers) == cost.macs
    assert total.activation_bytes == sum(layer.activation_bytes for layer in found.layers)


def test_every_layer_says_what_it_puts_out(network: tuple[str, nn.Module, Inspection]) -> None:
    name, _, found = network
    for layer in found.layers:
        inner = name != "INT8" or layer.op == "linear"
        assert layer.activation_bytes == prod(layer.output_shape) * (4 if inner else 1)
        if layer.op == "conv":
            assert layer.stride == found.input_shape[1] / layer.output_shape[1]
        else:
            assert (layer.stride, layer.kernel, layer.groups) == (None, (), 1)


def test_blocks_hold_each_layer_once_and_end_at_an_add(network: tuple[str, nn.Module, Inspection]) -> None:
    name, _, found = network
    inside = [layer for block in found.blocks for layer in block.layers]
    assert len(inside) == len(set(inside))
    assert {layer.layer: layer.block for layer in found.layers if layer.block} == {
        layer: block.name for block in found.blocks for layer in block.layers
    }
    assert len(found.blocks) == found.ops["add"]
    assert {block.kind for block in found.blocks} == {"bottleneck" if name in ("bottlenecks", "grouped") else "basic"}
    outside = [layer.layer for layer in found.layers if not layer.block]
    assert outside == [found.layers[0].layer, found.layers[-1].layer]
    assert sum(block.macs for block in found.blocks) == sum(layer.macs for layer in found.layers if layer.block)


def test_groups_part_the_channels(network: tuple[str, nn.Module, Inspection]) -> None:
    name, _, found = network
    made = [layer for group in found.groups for layer in group.layers]
    assert len(made) == len(set(made))
    learned = {layer.layer for layer in found.layers if layer.params} - {found.layers[-1].layer}
    if name == "INT8":
        assert made == []  # channels leave a model, not a quantized graph
    elif not found.uncut:
        assert learned <= set(made)
    assert {layer.layer: layer.group for layer in found.layers if layer.group} == {
        layer: group.name for group in found.groups for layer in group.layers
    }


def test_the_model_stays_as_it_is() -> None:
    model = stock("cifar", "resnet8").train()
    before = snapshot(model)
    inspect(model, context().data)
    assert same(before, snapshot(model))
    model.eval()


def test_shortcuts_and_strides_of_blocks() -> None:
    fixed, projected = inspect(fused("cifar", "resnet8")), inspect(bottlenecks())
    assert [(b.name, b.shortcut, b.stride) for b in fixed.blocks] == [
        ("layer1.0", "identity", 1),
        ("layer2.0", "fixed", 2),
        ("layer3.0", "fixed", 2),
    ]
    assert [(b.name, b.shortcut, b.shortcut_layers, b.stride, b.output_shape) for b in projected.blocks] == [
        ("1", "identity", (), 1, (64, 16, 16)),
        ("2", "projection", ("2.downsample.0",), 2, (128, 8, 8)),
    ]


def test_factors_of_a_convolution_count_as_one() -> None:
    block = SEBasicBlock(16, 16, 1, 4)
    block.conv2 = nn.Sequential(nn.Conv2d(16, 4, (3, 1), padding=(1, 0)), nn.Conv2d(4, 16, (1, 3), padding=(0, 1)))
    (found,) = inspect(around(block, outputs=16)).blocks
    assert found.kind == "basic"
    assert found.layers[1:3] == ("1.conv2.0", "1.conv2.1")


class Maps(nn.Module):
    """Two maps, of which the coarser is blown up and added to the finer, as in a feature pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.inner = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(x)
        coarse = self.coarse(fine)
        return self.inner(fine) + nn.functional.interpolate(coarse, scale_factor=2.0), coarse


def test_a_network_that_gives_back_maps() -> None:
    found = inspect(custom(Maps(), side=32), context(3).data)
    assert [layer.stride for layer in found.layers] == [2, 2, 4] or [layer.stride for layer in found.layers] == [
        2,
        4,
        2,
    ]
    (block,) = found.blocks
    assert (block.kind, block.stride, block.output_shape) == ("other", 1, (8, 16, 16))
    assert all(layer.sqnr_db and layer.sqnr_db > 20 for layer in found.layers)


def test_sides_that_don_t_divide_have_whole_strides() -> None:
    model = custom(nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3, 2)), side=75)
    assert [layer.stride for layer in inspect(model).layers] == [2, 8]


def test_sensitivity_of_weights_is_that_of_their_grid() -> None:
    """``10 log10(12 127² mean(w²) / max(w)²)`` where the rounding error is uniform."""
    model = custom(nn.Sequential(nn.Conv2d(3, 8, 5), nn.Flatten(), nn.Linear(128, 3)))
    w = torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    w[:, 0, 0, 0] = 1
    model[0].weight.data = w
    (first, _) = inspect(model).layers
    assert first.sqnr_db == pytest.approx(10 * math.log10(12 * 127**2 * float(w.square().mean())), abs=0.3)


def test_weights_on_the_grid_lose_nothing_and_zeros_can_t_be_judged() -> None:
    model = custom(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(512, 3)))
    with torch.no_grad():
        model[0].weight.copy_(torch.randint(-127, 128, (8, 3, 1, 1)) / 127)
        model[0].weight[:, 0] = 1
        model[1].weight.zero_()
    found = inspect(model)
    assert [layer.sqnr_db for layer in found.layers[:2]] == [math.inf, None]


def test_sensitivity_with_images_is_that_of_the_output() -> None:
    """Against the network run by hand, with one layer's weight and input rounded."""
    model, data = fused("cifar", "resnet8"), context().data
    found = inspect(model, data, images=4)
    assert found.images == "4 images of toy"
    layer = next(row for row in found.layers if row.layer == "layer2.0.conv2")
    ((images, _),) = batches(data.calibration, models.spec_of(model).preprocessing, 4, 4)

    def rounded(module: nn.Conv2d, inputs: tuple[Tensor]) -> tuple[Tensor]:
        low, high = inputs[0].min().clamp(max=0), inputs[0].max().clamp(min=0)
        scale = float((high - low) / 255)
        return (((inputs[0] / scale).round() * scale),) if low == 0 else inputs

    changed = clone(model)
    conv = changed.get_submodule("layer2.0.conv2")
    with torch.no_grad():
        scale = conv.weight.abs().amax((1, 2, 3), keepdim=True) / 127
        conv.weight.copy_((conv.weight / scale).round() * scale)
        conv.register_forward_pre_hook(rounded)
        assert layer.sqnr_db == pytest.approx(sqnr_db(model(images).numpy(), changed(images).numpy()), abs=0.05)


def test_images_show_an_int8_network_as_float_with_one_layer_in_int8() -> None:
    found = inspect(quantized("cifar", "resnet8"), context().data)
    assert all(layer.sqnr_db is not None and layer.sqnr_db > 25 for layer in found.layers)


def test_a_knob_out_of_bounds_is_refused() -> None:
    with pytest.raises(RecipeError, match="images"):
        inspect(stock("cifar", "resnet8"), images=0)
