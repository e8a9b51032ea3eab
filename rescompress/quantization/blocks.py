"""Parts of a captured graph that are reconstructed at a time: residual blocks, and the layers outside of any."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import fx

from rescompress import graph
from rescompress.fakequant import quantizer_behind

Unit = Literal["layer", "block"]


@dataclass(frozen=True)
class Part:
    """A part of the network with one way in and one way out.

    Attributes:
        name: the longest module name that its layers share.
        entry: the value that goes in.
        exit: the value that comes out; behind a ReLU where there is one, before any fake-quant.
        layers: convolutions and linear layers with quantized weights, in order of execution.
    """

    name: str
    entry: fx.Node
    exit: fx.Node
    layers: tuple[fx.Node, ...]


def parts(traced: fx.GraphModule, unit: Unit) -> list[Part]:
    """The parts of a quantized model that together hold every quantized weight once, in order of execution.

    A residual block is what lies between an addition and its immediate dominator, the last value that all ways to the
    addition share, if there is no other addition between and no way out (Li et al. 2021, arXiv:2102.05426, reconstruct
    those). A weight that several layers share belongs to the first of them.

    Args:
        traced: a captured graph with fake-quants.
        unit: whether layers of a residual block belong together.
    """
    order = {node: place for place, node in enumerate(traced.graph.nodes)}
    last_first = [node for node in reversed(order) if _is_quantized_layer(traced, node)]
    first_use = set({layer.args[1]: layer for layer in last_first}.values())
    layers = [node for node in order if node in first_use]
    found: list[Part] = []
    if unit == "block":
        dominators = _immediate_dominators(traced)
        for node in dominators:
            if graph.op_of(node) == "add" and len(graph.inputs_of(node)) > 1:
                found += _block(node, dominators, layers)
    taken = {layer for part in found for layer in part.layers}
    found += [
        Part(graph.name_of(node), graph.inputs_of(node)[0], _behind_relu(node), (node,))
        for node in layers
        if node not in taken
    ]
    return sorted(found, key=lambda part: order[part.exit])


def missing(wanted: fx.Node, known: Mapping[fx.Node, Any]) -> list[fx.Node]:
    """The nodes that have to be computed for a wanted value, in order of execution.

    Args:
        wanted: the value.
        known: values that are there.
    """
    found, stack = set[fx.Node](), [wanted]
    while stack:
        node = stack.pop()
        if node not in known and node not in found:
            found.add(node)
            stack += node.all_input_nodes
    return sorted(found)


def _is_quantized_layer(traced: fx.GraphModule, node: fx.Node) -> bool:
    return graph.op_of(node) in ("conv", "linear") and quantizer_behind(traced, node.args[1]) is not None


def _behind_relu(node: fx.Node) -> fx.Node:
    users = list(node.users)
    return users[0] if len(users) == 1 and graph.op_of(users[0]) == "relu" else node


def _block(node: fx.Node, dominators: dict[fx.Node, fx.Node | None], layers: list[fx.Node]) -> list[Part]:
    """The residual block that ends in an addition, if there is one."""
    entry = dominators[node]
    if entry is None:
        return []
    inside = [other for other in missing(node, {entry: None}) if other in dominators]
    own = tuple(layer for layer in layers if layer in inside)
    additions = sum(graph.op_of(other) == "add" and len(graph.inputs_of(other)) > 1 for other in inside)
    left = any(user not in inside for other in inside if other is not node for user in other.users)
    if additions > 1 or left or not own:
        return []
    return [Part(_shared_name(own), entry, _behind_relu(node), own)]


def _shared_name(layers: tuple[fx.Node, ...]) -> str:
    words = [graph.name_of(layer).split(".") for layer in layers]
    if len(words) == 1:
        return ".".join(words[0])
    shared = [column[0] for column in zip(*words, strict=False) if len(set(column)) == 1]
    return ".".join(shared) or graph.name_of(layers[0])


def _immediate_dominators(traced: fx.GraphModule) -> dict[fx.Node, fx.Node | None]:
    """For each activation the last value through which all ways to it lead; None for the input (Cooper et al. 2001)."""
    dominators: dict[fx.Node, fx.Node | None] = {}
    depth: dict[fx.Node, int] = {}
    for node in traced.graph.nodes:
        sources = [source for source in node.all_input_nodes if source in dominators]
        if node.op == "placeholder":
            dominators[node], depth[node] = None, 0
        elif sources:
            shared = sources[0]
            for other in sources[1:]:
                while shared is not other:
                    deeper = shared if depth[shared] >= depth[other] else other
                    above = cast(fx.Node, dominators[deeper])
                    shared, other = (above, other) if deeper is shared else (shared, above)
            dominators[node], depth[node] = shared, depth[shared] + 1
    return dominators
