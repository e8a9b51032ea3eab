"""What ONNX Runtime made of a graph: the precision of each layer, floats between integers, Q/DQ that are left over."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rescompress.spec import Floats, LayerPrecision, PrecisionReport, Proportion

KINDS = {
    "Conv": "conv",
    "ConvInteger": "conv",
    "Gemm": "linear",
    "MatMulInteger": "linear",
    "MatMul": "linear",
    "Add": "add",
    "MaxPool": "pool",
    "AveragePool": "pool",
    "GlobalAveragePool": "pool",
}
"""Ops of the exported graph whose precision is reported."""
INT8_OPS = {
    "conv": ("QLinearConv", "ConvInteger"),
    "linear": ("QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
    "add": ("QLinearAdd",),
    "pool": ("QLinearAveragePool", "QLinearGlobalAveragePool", "NhwcMaxPool"),
}
"""Ops of the optimized graph that compute in INT8."""
MOVES = ("Transpose", "Reshape", "Flatten", "ReorderInput", "ReorderOutput")
"""Ops of the optimized graph that only move values."""
ROUNDS = ("QuantizeLinear", "DequantizeLinear")
SHOWN = 5
"""How many names a sentence lists."""


def report(exported: Any, built: Any, floats: Floats) -> PrecisionReport:
    """The precision of each convolution, linear layer, add and pool.

    Args:
        exported: the ``onnx.GraphProto`` of the file.
        built: the graph that ONNX Runtime optimized.
        floats: what the file says is computed in where integers aren't.
    """
    integers, halves = _integer_values(built), _half_values(built)
    found = {stem(value): node for node in built.node for value in node.output}
    found |= {stem(node.name): node for node in built.node if stem(node.name) not in found or _is_int8(node)}
    layers = []
    for name, op in kinds_of(exported).items():
        now = found.get(name)
        moved = now is not None and now.op_type == "MaxPool" and now.input[0] in integers
        int8 = now is not None and (now.op_type in INT8_OPS[op] or moved)
        half = now is not None and now.input[0] in halves
        layers.append(LayerPrecision(name, op, "int8" if int8 else "fp16" if half else "fp32"))
    counts = Counter(node.op_type for node in built.node)
    int8 = sum(_is_int8(node) or (node.op_type == "MaxPool" and node.input[0] in integers) for node in built.node)
    return PrecisionReport(
        tuple(layers),
        dict(sorted(counts.items())),
        Proportion(int8, len(built.node) - sum(counts[op] for op in MOVES)),
        (*_between_integers(built, integers), *_widened(layers, floats)),
    )


def kinds_of(exported: Any) -> dict[str, str]:
    """``conv``, ``linear``, ``add`` or ``pool`` of each node of the file that is a layer; adding a bias is none."""
    constants = {tensor.name for tensor in exported.initializer}
    kinds = {node.name: KINDS.get(node.op_type) for node in exported.node}
    biases = {node.name for node in exported.node if node.op_type == "Add" and constants & set(node.input)}
    return {name: kind for name, kind in kinds.items() if kind and name not in biases}


def stem(name: str) -> str:
    """The name that we gave a node, in a name that ONNX Runtime derived from it or from its output."""
    return re.sub(r"(/.*|_token_\d+|_nchwc)+$", "", name)


def _between_integers(built: Any, integers: set[str]) -> list[str]:
    """A sentence about the layers that compute in float between integers, and one about the Q/DQ that are left."""
    stored = {tensor.name for tensor in built.initializer}
    for node in built.node:
        if node.input and set(node.input) <= stored:
            stored.update(node.output)
    working = [node for node in built.node if node.op_type not in MOVES and not set(node.output) <= stored]
    behind = _reached(built.node)
    ahead = _reached(built.node, backwards=True)
    between = [node for node in working if behind & set(node.input) and ahead & set(node.output)]
    rounding = [node for node in between if node.op_type in ROUNDS]
    rest = [node for node in between if not _is_int8(node) and node not in rounding]
    islands = [node for node in rest if node.op_type != "Cast" and not integers & set(node.input)]
    notes = []
    if islands:
        names = [f"{stem(node.name or node.output[0])} ({node.op_type})" for node in islands]
        notes.append(f"{len(names)} nodes compute in float between integers: {_listed(names)}.")
    if rounding:
        names = [stem(node.name or node.output[0]) for node in rounding]
        notes.append(f"{len(names)} Q/DQ are left between integers: {_listed(names)}.")
    return notes


def _reached(nodes: Sequence[Any], *, backwards: bool = False) -> set[str]:
    """The values that come after the rounding to integers, or after a layer of integers; or that come before one."""
    found: set[str] = set()
    for node in reversed(nodes) if backwards else nodes:
        come, go = (node.output, node.input) if backwards else (node.input, node.output)
        if node.op_type == ROUNDS[0] or _is_int8(node) or found & set(come):
            found.update(go)
    return found


def _widened(layers: Sequence[LayerPrecision], floats: Floats) -> list[str]:
    """A sentence where FP16 was asked for and FP32 is computed."""
    wide = [layer.layer for layer in layers if layer.precision == "fp32"]
    if floats != "fp16" or not wide:
        return []
    return [
        f"{len(wide)} of {len(layers)} layers compute in FP32: for them ONNX Runtime has no FP16 kernels on this CPU, "
        "or none between integers. FP16 saves space here, not time."
    ]


def _integer_values(built: Any) -> set[str]:
    """Values of the optimized graph that are INT8."""
    integers: set[str] = set()
    for node in built.node:
        makes = node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear")
        if makes or (node.op_type in ("Transpose", "MaxPool", "Reshape") and node.input[0] in integers):
            integers.update(node.output)
    return integers


def _half_values(built: Any) -> set[str]:
    """Values of the optimized graph that are FP16: what casts and scales make so, and what is computed from that."""
    from onnx import TensorProto

    halves = {tensor.name for tensor in built.initializer if tensor.data_type == TensorProto.FLOAT16}
    for node in built.node:
        if node.op_type == "Cast":
            half = any(item.name == "to" and item.i == TensorProto.FLOAT16 for item in node.attribute)
        else:
            half = node.op_type != "QuantizeLinear" and bool(halves & set(node.input))
        if half:
            halves.update(node.output)
    return halves


def _is_int8(node: Any) -> bool:
    """Whether a node of the optimized graph computes with integers."""
    return node.op_type.startswith("QLinear") or any(node.op_type in ops for ops in INT8_OPS.values())


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
