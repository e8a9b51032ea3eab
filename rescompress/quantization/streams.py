"""Which channels must share one scale: those that are added, moved, or let through a ReLU, from makers to readers."""

from collections import Counter
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor, fx, nn

from rescompress import graph
from rescompress.quantization.channels import has_channels

Ids = Int[Tensor, " _"]
LAYERS = ("conv", "linear")
COMMUTING = ("relu", "leaky_relu", "max_pool", "clone", "alias")
"""Steps for which ``f(s x) = s f(x)`` with a positive ``s`` per channel."""
GROUND = 0


@dataclass(frozen=True)
class Streams:
    """Channels in classes that can only be scaled together; class 0 can't be scaled at all.

    Attributes:
        of: the class of each channel, for each value that has channels.
        layers: convolutions and linear layers whose weights are theirs alone and may be edited.
        count: how many classes there are.
    """

    of: dict[fx.Node, Ids]
    layers: tuple[fx.Node, ...]
    count: int

    def made(self, layer: fx.Node) -> Ids:
        """The class of each row of a layer's weight."""
        return self.of[layer]

    def read(self, layer: fx.Node) -> Int[Tensor, "o i"]:
        """The class of each row's columns; with groups, a row reads the channels of its own group."""
        return _grouped(layer, self.of[graph.inputs_of(layer)[0]])


def streams_of(traced: fx.GraphModule) -> Streams:
    """Find the classes: scaling all of one's makers' rows by s and its readers' columns by 1/s changes nothing.

    A convolution with fixed or shared weights ties each of its outputs to the inputs that it is made of, which is
    exact for ``layers.PadShortcut`` (outputs are copies of inputs) and for an average. The image, the output, and
    whatever a step that is not known here reads or makes keep their scale.

    Args:
        traced: a captured graph with its BatchNorms folded.
    """
    ids, count = _numbered(traced)
    runs = Counter(_place(traced, node) for node in traced.graph.nodes if node.op == "get_attr" for _ in node.users)
    layers = tuple(node for node in traced.graph.nodes if _is_free(traced, node, ids, runs))
    ties = [pair for node in traced.graph.nodes for pair in _ties(traced, node, ids, node in layers)]
    none = torch.zeros(0, dtype=torch.int64)
    label = _components(count, torch.cat([none, *(a for a, _ in ties)]), torch.cat([none, *(b for _, b in ties)]))
    return Streams({node: label[channels] for node, channels in ids.items()}, layers, count)


def own_parameter(traced: fx.GraphModule, node: object) -> nn.Parameter | None:
    """The parameter that a node reads, through a fake-quant or not; None if it is a buffer, or none at all."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        node = node.args[0]
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    tensor = graph.tensor_of(traced, node)
    return tensor if isinstance(tensor, nn.Parameter) else None


def readers(traced: fx.GraphModule, part: object) -> int:
    """How many steps read a tensor."""
    own = own_parameter(traced, part)
    attributes = [node for node in traced.graph.nodes if node.op == "get_attr"]
    runs = Counter(graph.tensor_of(traced, node).data_ptr() for node in attributes for _ in node.users)
    return runs[own.data_ptr()] if own is not None else 0


def _numbered(traced: fx.GraphModule) -> tuple[dict[fx.Node, Ids], int]:
    """A number for each channel of each value; number 0 is the ground."""
    ids: dict[fx.Node, Ids] = {}
    count = 1
    for node in traced.graph.nodes:
        if has_channels(node):
            c = int(node.meta["val"].shape[1])
            ids[node] = torch.arange(count, count + c)
            count += c
    return ids, count


def _is_free(traced: fx.GraphModule, node: fx.Node, ids: dict[fx.Node, Ids], runs: Counter[int]) -> bool:
    if graph.op_of(node) not in LAYERS or node not in ids or graph.inputs_of(node)[0] not in ids:
        return False
    tensors = [part for part in node.args[1:3] if part is not None]
    return all(
        own_parameter(traced, part) is not None and runs[_place(traced, cast(fx.Node, part))] == 1 for part in tensors
    )


def _place(traced: fx.GraphModule, node: fx.Node) -> int:
    return graph.tensor_of(traced, node).data_ptr()


def _ties(traced: fx.GraphModule, node: fx.Node, ids: dict[fx.Node, Ids], free: bool) -> list[tuple[Ids, Ids]]:
    """Pairs of channels that one step makes share their scale."""
    if free or node.op == "get_attr":
        return []
    sources, op = graph.inputs_of(node), graph.op_of(node)
    near = [ids[part] for part in (*sources, node) if part in ids]
    if len(near) == len(sources) + 1 and node.op == "call_function":
        same_shape = all(part.meta["val"].shape == node.meta["val"].shape for part in sources)
        if (op in COMMUTING and len(sources) == 1) or (
            op == "add" and len(node.args) == 2 == len(sources) and same_shape
        ):
            return [(channels, ids[node]) for channels in near[:-1]]
        if op == "avg_pool" and _keeps_channels(node):
            return [(near[0], near[1])]
        if op == "reshape" and _flattens(sources[0], node):
            return [(near[0].repeat_interleave(len(near[1]) // len(near[0])), near[1])]
        if op in LAYERS:
            return _fixed_ties(traced, node, near[0], near[1])
    return [(channels, torch.full_like(channels, GROUND)) for channels in near]


def _fixed_ties(traced: fx.GraphModule, node: fx.Node, inputs: Ids, outputs: Ids) -> list[tuple[Ids, Ids]]:
    weight, *bias = (graph.tensor_of(traced, part) for part in node.args[1:3] if isinstance(part, fx.Node))
    used: Bool[Tensor, "o i"] = weight.detach().flatten(2).any(2) if weight.dim() > 2 else weight.detach() != 0
    rows = outputs[:, None].expand_as(used)[used]
    ties = [(rows, _grouped(node, inputs)[used])]
    if bias:
        shifted = outputs[bias[0].detach() != 0]
        ties.append((shifted, torch.full_like(shifted, GROUND)))
    return ties


def _grouped(layer: fx.Node, inputs: Ids) -> Int[Tensor, "o i"]:
    groups = layer.args[6] if graph.op_of(layer) == "conv" and len(layer.args) > 6 else 1
    rows = int(layer.meta["val"].shape[1])
    return inputs.view(cast(int, groups), -1).repeat_interleave(rows // cast(int, groups), 0)


def _keeps_channels(node: fx.Node) -> bool:
    """Whether an average is over pixels only."""
    mean = str(node.target).startswith("aten.mean")
    return not mean or all(dim in (2, 3, -1, -2) for dim in cast(list[int], node.args[1]))


def _flattens(source: fx.Node, node: fx.Node) -> bool:
    """Whether a reshape keeps the images apart and the channels in order."""
    before, after = source.meta["val"].shape, node.meta["val"].shape
    return before[0] == after[0] and (len(after) == 2 or (len(before) == 2 and before[1] == after[1]))


def _components(count: int, a: Ids, b: Ids) -> Int[Tensor, " n"]:
    """The smallest number in the connected component of each number, by hooking and pointer jumping."""
    label = torch.arange(count)
    while True:
        low = torch.minimum(label[a], label[b])
        new = label.scatter_reduce(0, a, low, "amin").scatter_reduce(0, b, low, "amin")
        new = torch.minimum(new, new[new])
        if torch.equal(new, label):
            return label
        label = new
