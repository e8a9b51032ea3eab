"""Parts of a network: every layer in one of them, each with one way in."""

import pytest
from torch import fx

from rescompress import backends, fakequant, graph
from rescompress.placement import place
from rescompress.quantization.blocks import Unit, parts
from tests.networks import captured

NETWORKS = {
    "cifar resnet8": ("cifar", "resnet8"),
    "preact": ("preact", "preact_resnet20"),
    "se": ("se", "se_resnet20"),
    "torchvision resnet18": ("torchvision", "resnet18"),
}


def quantized_graph(family: str, architecture: str) -> fx.GraphModule:
    traced = graph.clone(captured(family, architecture))
    fakequant.insert(traced, place(traced, backends.get("onnxruntime").SCHEME))
    return traced


def reaches(source: fx.Node, target: fx.Node, around: fx.Node) -> bool:
    """Whether a value reaches another one on a way that leaves a third out."""
    seen, stack = {around}, [source]
    while stack:
        node = stack.pop()
        if node is target:
            return True
        if node not in seen:
            seen.add(node)
            stack += node.users
    return False


@pytest.mark.parametrize("unit", ["layer", "block"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_layer_is_in_one_part_that_has_one_way_in(network: str, unit: Unit) -> None:
    traced = quantized_graph(*NETWORKS[network])
    images = next(node for node in traced.graph.nodes if node.op == "placeholder")
    found = parts(traced, unit)
    held = [graph.name_of(layer) for part in found for layer in part.layers]
    layers = [graph.name_of(node) for node in traced.graph.nodes if graph.op_of(node) in ("conv", "linear")]
    assert sorted(held) == sorted(layers)
    for part in found:
        assert all(not reaches(images, layer, part.entry) for layer in part.layers)
        assert all(layer is part.exit or reaches(layer, part.exit, images) for layer in part.layers)


def test_residual_blocks_are_found_and_named() -> None:
    found = {part.name: len(part.layers) for part in parts(quantized_graph("cifar", "resnet8"), "block")}
    assert found == {"conv1": 1, "layer1.0": 2, "layer2.0": 3, "layer3.0": 3, "linear": 1}


def test_layer_by_layer_each_ends_behind_its_relu() -> None:
    found = {part.name: part for part in parts(quantized_graph("cifar", "resnet8"), "layer")}
    assert graph.name_of(found["layer1.0.conv1"].exit) == "layer1.0.relu"
    assert graph.name_of(found["layer1.0.conv2"].exit) == "layer1.0.conv2"
