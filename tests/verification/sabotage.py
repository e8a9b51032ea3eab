"""Faults that an export can have, as edits of an ONNX graph; each says in which layer it lies, where it lies in one."""

from collections.abc import Callable
from typing import Any

import numpy as np

LAYER = "layer2.1.conv1"
"""Where faults of one layer go: in the middle, with a ReLU behind it."""
LAST = "layer2.1.conv2"
"""Before an addition."""


class Graph:
    """An ``onnx.ModelProto`` that is edited by the names of its layers."""

    def __init__(self, proto: Any) -> None:
        self.proto, self.graph = proto, proto.graph

    def node(self, name: str) -> Any:
        return next(node for node in self.graph.node if node.name == name)

    def maker(self, value: str) -> Any:
        return next((node for node in self.graph.node if value in node.output), None)

    def source(self, value: str) -> str:
        """The stored tensor that a value comes from, through its dequantization if it has one."""
        maker = self.maker(value)
        return value if maker is None else maker.input[0]

    def array(self, name: str) -> Any:
        from onnx import numpy_helper

        return numpy_helper.to_array(next(tensor for tensor in self.graph.initializer if tensor.name == name)).copy()

    def store(self, name: str, change: Callable[[Any], Any]) -> None:
        """Change a stored tensor, which keeps its type."""
        from onnx import numpy_helper

        tensor = next(tensor for tensor in self.graph.initializer if tensor.name == name)
        before = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.array(change(before.copy()), before.dtype, order="C"), name))

    def own(self, node: Any, place: int, change: Callable[[Any], Any]) -> None:
        """Give one node a changed copy of a tensor that others may share."""
        from onnx import numpy_helper

        name = f"{node.name}.sabotaged{place}"
        before = self.array(node.input[place])
        changed = np.array(change(before.copy()), before.dtype, order="C")
        self.graph.initializer.append(numpy_helper.from_array(changed, name))
        node.input[place] = name

    def weight(self, layer: str, change: Callable[[Any], Any]) -> None:
        self.store(self.source(self.node(layer).input[1]), change)

    def bias(self, layer: str, change: Callable[[Any], Any]) -> None:
        self.store(self.source(self.node(layer).input[2]), change)

    def insert(self, value: str, op: str, *constants: Any, **attributes: Any) -> None:
        """Let everything that reads a value read what an op makes of it."""
        from onnx import helper, numpy_helper

        names = [f"sabotage{place}" for place in range(len(constants))]
        tensors = [numpy_helper.from_array(np.asarray(each), name) for each, name in zip(constants, names, strict=True)]
        self.graph.initializer.extend(tensors)
        for node in self.graph.node:
            node.input[:] = ["sabotaged" if name == value else name for name in node.input]
        node = helper.make_node(op, [value, *names], ["sabotaged"], "sabotage", **attributes)
        nodes = list(self.graph.node)
        maker = self.maker(value)
        nodes.insert(nodes.index(maker) + 1 if maker is not None else 0, node)
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def replace_output(self, op: str, *constants: Any, **attributes: Any) -> None:
        """Let the network give back what an op makes of its logits."""
        last = self.maker("logits")
        last.output[0] = "logits/before"
        self.insert("logits/before", op, *constants, **attributes)
        self.node("sabotage").output[0] = "logits"

    def skip(self, node: Any, source: str) -> None:
        """Let everything that reads a node's output read another value."""
        for other in self.graph.node:
            other.input[:] = [source if name == node.output[0] else name for name in other.input]
        self.graph.node.remove(node)


def swapped(weight: Any) -> Any:
    weight[[0, 1]] = weight[[1, 0]]
    return weight


def attribute(node: Any, name: str, value: Any) -> None:
    from onnx import helper

    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def wrong_normalization(graph: Graph) -> None:
    """Mean 0.5 and deviation 0.5 in the place of ImageNet's: what another framework's template says."""
    mean, std = (np.array(part, np.float32).reshape(3, 1, 1) for part in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    graph.insert("images", "Mul", std / np.float32(0.5))
    first = graph.node("sabotage")
    first.name, first.output[0] = "sabotage.scale", "scaled"
    for node in graph.graph.node:
        node.input[:] = ["scaled" if name == "sabotaged" else name for name in node.input]
    for tensor in graph.graph.initializer:
        if tensor.name == "sabotage0":
            tensor.name = "factor"
    first.input[1] = "factor"
    graph.insert("scaled", "Add", ((mean - 0.5) / 0.5).astype(np.float32))


def first_relu(graph: Graph) -> Any:
    return next(
        node for node in graph.graph.node if node.op_type == "Relu" and node.input[0] == graph.node(LAYER).output[0]
    )


def off_by_one_padding(graph: Graph) -> None:
    attribute(graph.node(LAYER), "pads", [0, 0, 2, 2])


def max_for_mean(graph: Graph) -> None:
    next(node for node in graph.graph.node if node.op_type == "GlobalAveragePool").op_type = "GlobalMaxPool"


def lost_residual(graph: Graph) -> None:
    add = next(node for node in graph.graph.node if node.op_type == "Add" and node.name == "layer2.1.add")
    graph.skip(add, add.input[0])


def lost_relu(graph: Graph) -> None:
    relu = first_relu(graph)
    graph.skip(relu, relu.input[0])


def batch_statistics(graph: Graph) -> None:
    """BatchNorm left in train mode: what the first convolution makes is moved by the mean over the batch."""
    graph.insert("images", "ReduceMean", np.array([0, 2, 3], np.int64), keepdims=1)
    mean = graph.node("sabotage")
    mean.output[0] = "batch/mean"
    from onnx import helper

    at = list(graph.graph.node).index(mean) + 1
    graph.graph.node.insert(at, helper.make_node("Sub", ["images", "batch/mean"], ["sabotaged"], "sabotage.sub"))


def quantized_again(bits: int) -> Callable[[Any], Any]:
    """Rounded to fewer bits per channel."""

    def change(weight: Any) -> Any:
        rows = weight.astype(np.float64).reshape(len(weight), -1)
        step = np.abs(rows).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
        return (np.round(rows / step) * step).round(4 if weight.dtype.kind == "f" else 0).reshape(weight.shape)

    return change


def stale(weight: Any) -> Any:
    """As if the statistics of the BatchNorm that was folded in were those of an earlier epoch."""
    return weight * np.random.default_rng(0).uniform(0.9, 1.1, (len(weight), 1, 1, 1))


def of_another_epoch(weight: Any) -> Any:
    spread = 0.02 * np.abs(weight.astype(np.float64)).mean() if weight.dtype.kind == "f" else 1.0
    return weight + np.random.default_rng(0).normal(0, spread, weight.shape).round(0 if weight.dtype.kind == "i" else 8)


def saturated(weight: Any) -> Any:
    """The largest weights clipped, as by a range of 95 % of the largest."""
    limit = 0.95 * np.abs(weight.astype(np.float64)).max()
    return np.clip(weight, -limit, limit)


def other_epsilon(weight: Any) -> Any:
    """A thousandth in the place of Keras' or PyTorch's epsilon: each channel by its own variance, some 0.1 to 1 %."""
    return weight * (1 - np.geomspace(1e-3, 1e-2, len(weight)).reshape(-1, 1, 1, 1))


def not_a_number(weight: Any) -> Any:
    weight.reshape(-1)[0] = np.nan
    return weight


ANY: dict[str, tuple[Callable[[Graph], None], str]] = {
    "weight twice as large": (lambda g: g.weight(LAYER, lambda w: w // 2 if w.dtype.kind == "i" else w * 2), LAYER),
    "channels swapped": (lambda g: g.weight(LAYER, swapped), LAYER),
    "weight transposed": (lambda g: g.weight(LAYER, lambda w: w.transpose(0, 1, 3, 2)), LAYER),
    "red and blue swapped": (lambda g: g.weight("conv1", lambda w: w[:, ::-1]), "conv1"),
    "input channels reversed": (lambda g: g.weight(LAYER, lambda w: w[:, ::-1]), LAYER),
    "statistics of an earlier epoch": (lambda g: g.weight(LAYER, stale), LAYER),
    "weight of an earlier epoch": (lambda g: g.weight(LAYER, of_another_epoch), LAYER),
    "weights clipped": (lambda g: g.weight(LAYER, saturated), LAYER),
    "another network's weight": (
        lambda g: g.weight(LAYER, lambda w: np.random.default_rng(0).permutation(w.reshape(-1)).reshape(w.shape)),
        LAYER,
    ),
    "bias dropped": (lambda g: g.bias(LAYER, lambda b: b * 0), LAYER),
    "bias twice as large": (lambda g: g.bias(LAYER, lambda b: b * 2), LAYER),
    "wrong normalization": (wrong_normalization, "images|conv1"),
    "images transposed": (lambda g: g.insert("images", "Transpose", perm=[0, 1, 3, 2]), "images|conv1"),
    "images moved by one pixel": (
        lambda g: g.insert("images", "Pad", np.array([0, 0, 1, 1, 0, 0, -1, -1], np.int64)),
        "images|conv1",
    ),
    "residual dropped": (lost_residual, "layer2.1.add|layer2.1.relu_1"),
    "classes permuted": (lambda g: g.replace_output("Gather", np.roll(np.arange(10), 1), axis=1), "output"),
    "padding off by one": (off_by_one_padding, LAYER),
    "maximum for mean": (max_for_mean, "avg_pool"),
    "batch statistics": (batch_statistics, "images|conv1"),
}
"""Faults of a float and of an INT8 file, and the layers that may be named."""
FLOAT_ONLY: dict[str, tuple[Callable[[Graph], None], str]] = {
    "weight in 4 bits": (lambda g: g.weight(LAYER, quantized_again(4)), LAYER),
    "another epsilon": (lambda g: g.weight(LAYER, other_epsilon), LAYER),
    "not a number": (lambda g: g.weight(LAYER, not_a_number), LAYER),
    "ReLU dropped": (lost_relu, "layer2.1.relu to layer2.1.conv2"),
}
INT8_ONLY: dict[str, tuple[Callable[[Graph], None], str]] = {
    "activation's scale twice": (lambda g: scale_of(g, 2.0), "layer2.0.relu_1"),
    "activation's scale 2 % off": (lambda g: scale_of(g, 1.02), "layer2.0.relu_1"),
    "zero-point off by one": (lambda g: zero_of(g), "layer2.0.relu_1"),
    "weight's scale twice": (
        lambda g: g.own(g.maker(g.node(LAYER).input[1]), 1, lambda scale: scale * 2),
        LAYER,
    ),
    "bias' scale wrong": (lambda g: g.own(g.maker(g.node(LAYER).input[2]), 1, lambda scale: scale * 1.5), LAYER),
    "INT8 weight in 4 bits": (
        lambda g: g.weight(LAYER, lambda w: np.clip(np.round(w / 18) * 18, -127, 127)),
        LAYER,
    ),
}


def scale_of(graph: Graph, factor: float) -> None:
    """What reads the layer's input takes its steps for larger than they are."""
    graph.own(graph.maker(graph.node(LAYER).input[0]), 1, lambda scale: scale * factor)


def zero_of(graph: Graph) -> None:
    """What reads the layer's input takes another integer for zero."""
    graph.own(graph.maker(graph.node(LAYER).input[0]), 2, lambda zero: zero + 1)
