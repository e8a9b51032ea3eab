"""FP16 in an ONNX graph: weights, activations and scales, with casts at its ends and around what stays in FP32."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rescompress.errors import InputRefused, RecipeError
from rescompress.onnx_writing import integers

PAIR = ("QuantizeLinear", "DequantizeLinear")
OPSET = 19
"""The first operator set whose Q/DQ take FP16 scales."""
FP32_INPUTS: Mapping[str, Sequence[int]] = {"Resize": (1, 2)}
"""Inputs that the standard has in FP32 only, though others of the op may be FP16."""
RUN_TIME = ("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
"""Ops whose scales are FP32, and whose sums would overflow FP16."""
LARGEST, SMALLEST = 65504.0, 2.0**-24
"""What FP16 can hold."""
LOSS = 1e-3
"""Relative error that is worth a note; twice what rounding costs where FP16 isn't near its ends."""


def convert(proto: Any, *, keep_fp32: Collection[str] = ()) -> tuple[str, ...]:
    """Let a model compute in FP16, in place; what goes in and comes out stays FP32.

    Scales are FP16 too, so that every layer between them is; biases that were stored as INT32 become floats, because
    their steps are too small for an FP16 scale. A scale that two precisions read has the same value in both.

    Args:
        proto: an ``onnx.ModelProto`` whose nodes and values have their last names.
        keep_fp32: names of nodes that stay in FP32, with casts around them, or Q/DQ with FP32 scales.

    Returns:
        What FP16 loses, a sentence each; empty where it loses no more than rounding does.

    Raises:
        RecipeError: the operator set has no FP16 scales, or no node has one of the names.
        InputRefused: a value is larger than FP16 can hold.
    """
    graph = proto.graph
    stays = _staying(graph, keep_fp32)
    if any(node.op_type in PAIR and node.name not in stays for node in graph.node) and _opset(proto) < OPSET:
        raise RecipeError(f"ONNX has no FP16 scales in operator set {_opset(proto)}.", f"Take opset {OPSET} or later.")
    integers.float_biases(graph, but=stays)
    floats = _float_values(proto)
    pairs = [node for node in graph.node if node.op_type in PAIR and node.name not in stays]
    notes = _round_scales(graph, pairs)
    variants = _Variants(graph, floats)
    nodes: list[Any] = []
    for node in graph.node:
        half = node.name not in stays
        for place, name in enumerate(node.input):
            if name in floats:
                wanted = half and place not in FP32_INPUTS.get(node.op_type, ())
                node.input[place] = variants.of(name, wanted, nodes.append)
        if half:
            _say_half(node)
            variants.halves.update(name for name in node.output if name in floats)
        variants.makers.update(dict.fromkeys(node.output, node))
        nodes.append(node)
    nodes += [variants.output(nodes, value.name) for value in graph.output if value.name in variants.halves]
    del graph.node[:]
    graph.node.extend(nodes)
    integers.drop_unused(graph)
    return notes + variants.lost()


def beside_integers(graph: Any) -> frozenset[str]:
    """Names of the nodes between Q/DQ of activations: in FP32, CPUs' runtimes fuse them into integer kernels.

    Args:
        graph: an ``onnx.GraphProto``.
    """
    stored = {tensor.name for tensor in graph.initializer}
    opening = {
        node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] not in stored
    }
    closing = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    return frozenset(
        node.name
        for node in graph.node
        if node.op_type == "QuantizeLinear" or opening & {*node.input, *node.output} or closing & set(node.output)
    )


class _Variants:
    """Each float value in the precision that its reader wants: a second tensor, a cast, or a second DQ."""

    def __init__(self, graph: Any, floats: Collection[str]) -> None:
        self.halves: set[str] = set()
        self.makers: dict[str, Any] = {}
        self._graph, self._floats = graph, floats
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._made: dict[tuple[str, bool], str] = {}
        self._losses: dict[str, float] = {}

    def of(self, name: str, half: bool, add: Callable[[Any], None]) -> str:
        """The name of the value in FP16 or in FP32; what must be computed for it is added."""
        if name not in self._tensors and (name in self.halves) == half:
            return name
        if (name, half) not in self._made:
            self._made[name, half] = self._stored(name, half) if name in self._tensors else self._cast(name, half, add)
        return self._made[name, half]

    def output(self, nodes: list[Any], name: str) -> Any:
        """The cast that gives a graph's output in FP32; what made it makes a value of another name."""
        from onnx import TensorProto, helper

        inner = f"{name}/half"
        for node in nodes:
            node.input[:] = [inner if value == name else value for value in node.input]
            node.output[:] = [inner if value == name else value for value in node.output]
        return helper.make_node("Cast", [inner], [name], f"{name}.cast", to=TensorProto.FLOAT)

    def lost(self) -> tuple[str, ...]:
        """A sentence if tensors lose more than rounding does."""
        worst = max(self._losses, key=lambda name: self._losses[name], default=None)
        if worst is None:
            return ()
        return (f"FP16 moves {len(self._losses)} tensors, {worst} the most: by {100 * self._losses[worst]:.2g} %.",)

    def _stored(self, name: str, half: bool) -> str:
        from onnx import numpy_helper

        if not half:
            return name
        values = cast(NDArray[Any], numpy_helper.to_array(self._tensors[name]))
        rounded = _rounded(name, values)
        loss = np.linalg.norm(rounded.astype(np.float64) - values) / max(np.linalg.norm(values), 1e-300)
        if loss > LOSS:
            self._losses[name] = float(loss)
        self._graph.initializer.append(numpy_helper.from_array(rounded, f"{name}/half"))
        return f"{name}/half"

    def _cast(self, name: str, half: bool, add: Callable[[Any], None]) -> str:
        from onnx import NodeProto, TensorProto, helper

        made, maker = f"{name}/{'half' if half else 'float'}", self.makers.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            twin = NodeProto()
            twin.CopyFrom(maker)
            twin.name, twin.output[0] = f"{maker.name}/{'half' if half else 'float'}", made
            twin.input[1] = self.of(twin.input[1].removesuffix("/half"), half, add)
            add(twin)
        else:
            kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
            add(helper.make_node("Cast", [name], [made], f"{made}.cast", to=kind))
        return made


def _staying(graph: Any, keep_fp32: Collection[str]) -> set[str]:
    """Names of all nodes that stay in FP32: those that were named, and the Q/DQ that serve nothing else."""
    unknown = set(keep_fp32) - {node.name for node in graph.node}
    if unknown:
        raise RecipeError(f"No node of the graph is called {min(unknown)}.", "Name nodes as the audit does.")
    stays = set(keep_fp32)
    makers: dict[str, Any] = {}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        before = [makers[name] for name in node.input if name in makers]
        sums = any(maker.op_type == "Cast" and maker.name in stays for maker in before)
        sums = sums and all(maker.name in stays for maker in before)
        closes = node.op_type == "QuantizeLinear" and any(maker.name in stays for maker in before)
        if node.op_type in RUN_TIME or closes or sums or any(maker.op_type in RUN_TIME for maker in before):
            stays.add(node.name)
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
        makers.update(dict.fromkeys(node.output, node))
    return stays | {
        node.name for node in graph.node if node.op_type == "DequantizeLinear" and readers[node.output[0]] <= stays
    }


def _float_values(proto: Any) -> set[str]:
    """Names of all values and tensors of type FP32."""
    from onnx import TensorProto, shape_inference

    graph = shape_inference.infer_shapes(proto, strict_mode=True).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _round_scales(graph: Any, pairs: Sequence[Any]) -> tuple[str, ...]:
    """Put scales on FP16's grid, still stored as FP32, in place; none becomes zero. A sentence if that moves any."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    moved, rounded = {}, {}
    for node in pairs:
        name = node.input[1]
        before = cast(NDArray[Any], numpy_helper.to_array(tensors[name])).astype(np.float64)
        rounded[name] = np.maximum(_rounded(name, before), SMALLEST).astype(np.float32)
        energy = _energy(node, tensors)
        whole = max(float((energy * before**2).sum()), 1e-300)
        moved[node.name] = float(np.sqrt((energy * (rounded[name] - before) ** 2).sum() / whole))
    for name, values in rounded.items():
        tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    worst = max(moved, key=lambda name: moved[name], default=None)
    if worst is None or moved[worst] <= LOSS:
        return ()
    return (f"The scale of {worst} is too small for FP16, which moves it by {100 * moved[worst]:.2g} %.",)


def _energy(node: Any, tensors: Mapping[str, Any]) -> NDArray[Any]:
    """What counts each scale of a Q/DQ: the squares of the stored integers that it scales; else 1."""
    from onnx import numpy_helper

    if node.input[0] not in tensors:
        return np.ones(1)
    integers = numpy_helper.to_array(tensors[node.input[0]]).astype(np.float64)
    zero = numpy_helper.to_array(tensors[node.input[2]]).astype(np.float64).max() if len(node.input) > 2 else 0
    return cast(NDArray[Any], ((integers - zero) ** 2).reshape(len(integers), -1).sum(1))


def _rounded(name: str, values: NDArray[Any]) -> NDArray[np.float16]:
    """The values in FP16."""
    largest = float(np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max(initial=0))
    if largest > LARGEST:
        raise InputRefused(
            f"{name} holds {largest:.4g}, but FP16 ends at {LARGEST:.0f}.", "Export it with floats=fp32."
        )
    return values.astype(np.float16)


def _say_half(node: Any) -> None:
    """Let a cast to FP32 cast to FP16, in place."""
    from onnx import TensorProto

    for attribute in node.attribute:
        if attribute.name in ("to", "dtype", "output_dtype") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16


def _opset(proto: Any) -> int:
    return int(next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")))
