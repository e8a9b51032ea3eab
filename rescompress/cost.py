"""What a model costs: parameters, multiply-accumulates, bytes of its weights; per layer and in total."""

from collections.abc import Sequence
from math import prod
from typing import cast

from torch import fx, nn

from rescompress import fakequant, graph, models
from rescompress.spec import Cost, LayerCost

FLOAT_BITS = 32


def total_cost(model: nn.Module) -> Cost:
    """Totals of a model. A weight behind a fake-quant counts one byte, in INT4 half a byte, and a float for each scale.

    MACs are those of convolutions and linear layers, for one image.
    """
    return summed(model, layer_costs(model))


def summed(model: nn.Module, layers: Sequence[LayerCost]) -> Cost:
    """Totals of a model whose layers' costs are known."""
    params = sum(p.numel() for p in model.parameters())
    elsewhere = params - sum(layer.params for layer in layers)
    elsewhere += sum(b.numel() for name, b in model.named_buffers() if "running_" in name)
    weight_bytes = sum(layer.weight_bytes for layer in layers) + elsewhere * FLOAT_BITS // 8
    return Cost(params, sum(layer.macs for layer in layers), weight_bytes)


def layer_costs(model: nn.Module) -> tuple[LayerCost, ...]:
    """Each convolution and linear layer, in order of execution."""
    return costs_of(graph.capture(model, models.spec_of(model).input_shape, functional=False))


def costs_of(traced: fx.GraphModule) -> tuple[LayerCost, ...]:
    """Each convolution and linear layer of a captured graph."""
    nodes = [node for node in traced.graph.nodes if graph.op_of(node) in ("conv", "linear")]
    return tuple(_layer_cost(traced, node) for node in nodes)


def _layer_cost(traced: fx.GraphModule, node: fx.Node) -> LayerCost:
    quantizer = fakequant.quantizer_behind(traced, node.args[1])
    weight_node = cast(fx.Node, cast(fx.Node, node.args[1]).args[0] if quantizer else node.args[1])
    weight = graph.tensor_of(traced, weight_node)
    biases = len(weight) if len(node.args) > 2 and node.args[2] is not None else 0
    shape = tuple(int(size) for size in node.meta["val"].shape[1:])
    bits = quantizer.site.bits if quantizer else FLOAT_BITS
    fixed = not isinstance(weight, nn.Parameter)
    floats = biases + (quantizer.scale.numel() if quantizer else 0)
    return LayerCost(
        layer=graph.name_of(node),
        op=graph.op_of(node),
        output_shape=shape,
        params=0 if fixed else weight.numel() + biases,
        macs=weight.numel() * prod(shape[1:]),
        weight_bits=bits,
        weight_bytes=-(-weight.numel() * bits // 8) + floats * FLOAT_BITS // 8,
    )
