"""Steps of an ONNX graph in the vocabulary of ``graph.OPS``; Q/DQ pairs become a mark on the value before them."""

from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from rescompress.errors import InputRefused
from rescompress.inspection.network import Norm, Op
from rescompress.spec import LayerCost

KINDS = {
    **{"Add": "add", "QLinearAdd": "add", "Relu": "relu", "BatchNormalization": "batch_norm"},
    **{"MaxPool": "max_pool", "NhwcMaxPool": "max_pool", "AveragePool": "avg_pool", "GlobalAveragePool": "avg_pool"},
    **{"ReduceMean": "avg_pool", "QLinearAveragePool": "avg_pool", "QLinearGlobalAveragePool": "avg_pool"},
    **{"Reshape": "reshape", "Flatten": "reshape", "Squeeze": "reshape"},
}
"""Ops of ONNX by the field's word; others are known by their own names in small letters."""
LAYERS = {
    **{"Conv": ("conv", 1, 2), "QLinearConv": ("conv", 3, 8), "ConvInteger": ("conv", 1, -1)},
    **{"Gemm": ("linear", 1, 2), "MatMul": ("linear", 1, -1), "QGemm": ("linear", 3, 6)},
    **{"QLinearMatMul": ("linear", 3, -1), "MatMulInteger": ("linear", 1, -1)},
}
"""Kind of each op with weights, and which of its inputs are weight and bias; -1 is none."""
HANDED_ON = frozenset({"QuantizeLinear", "DequantizeLinear", "Identity", "Cast", "Dropout"})
FLOAT_BITS, INT8_BITS = 32, 8


@dataclass(frozen=True)
class Node:
    """One step: values and constants by number, -1 where an input was left out."""

    name: str
    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shape: tuple[int | None, ...] | None
    numbers: dict[str, tuple[int, ...]]
    epsilon: float


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant in float, and with how many bits and scales it is stored."""

    value: Tensor
    bits: int = FLOAT_BITS
    scales: int = 0


class Builder:
    """The steps so far.

    Args:
        path: the file, for what is said of it.
        tensors: its constants by number.
    """

    def __init__(self, path: Path, tensors: dict[int, Tensor]) -> None:
        self.ops: dict[str, Op] = {}
        self.added = 0
        self._path = path
        self._constants = {number: Constant(tensor) for number, tensor in tensors.items()}
        self._names: dict[int, str] = {}
        self._taken = Counter[str]()

    def names(self, numbers: tuple[int, ...]) -> tuple[str, ...]:
        """The steps that make the values with these numbers."""
        return tuple(self._names[number] for number in numbers if number in self._names)

    def begin(self, number: int, shape: tuple[int | None, ...] | None) -> None:
        """Read the image."""
        self._add(Op("images", "input", (), self._sizes(shape, "its input")), (number,))

    def step(self, node: Node) -> None:
        """Read one node; those before it have been read."""
        inputs = self.names(node.inputs)
        constant = self._constant(node, 0)
        if inputs and node.op in HANDED_ON:
            self._names[node.outputs[0]] = inputs[0]
            if node.op == "QuantizeLinear":
                self.ops[inputs[0]] = replace(self.ops[inputs[0]], int8=True)
        elif inputs:
            self._add(self._op(node, inputs), node.outputs)
        elif node.op in HANDED_ON and constant is not None:
            self._constants[node.outputs[0]] = self._handed_on(node, constant)

    def _add(self, op: Op, numbers: tuple[int, ...]) -> None:
        stem = op.name
        while op.name in self.ops:
            self._taken[stem] += 1
            op = replace(op, name=f"{stem}_{self._taken[stem]}")
        op = replace(op, cost=op.cost and replace(op.cost, layer=op.name))
        self.ops[op.name] = op
        self._names.update(dict.fromkeys(numbers, op.name))

    def _op(self, node: Node, inputs: tuple[str, ...]) -> Op:
        kind, place, _ = LAYERS.get(node.op, (KINDS.get(node.op, node.op.lower()), 0, -1))
        shape = tuple(size or 0 for size in node.shape or ())
        op = Op(node.name, kind, inputs, shape, node.name, int8=node.op.startswith("QLinear"))
        weight = self._constant(node, place) if place else None
        if weight is not None and weight.value.dim() > 1:
            return self._layer(node, op, weight)
        if kind == "batch_norm":
            return replace(op, norm=self._norm(node))
        if kind == "add":
            self.added += sum(self._constants[n].value.numel() for n in node.inputs if n in self._constants)
        return replace(op, kind=node.op.lower()) if place else op

    def _layer(self, node: Node, op: Op, stored: Constant) -> Op:
        _, place, bias_place = LAYERS[node.op]
        if not stored.value.is_floating_point():
            stored = self._dequantized(stored, node, place + 1, 0 if op.kind == "conv" else stored.value.dim() - 1)
        w = stored.value.float()
        if op.kind == "linear" and not node.numbers.get("transB", (0,))[0]:
            w = w.transpose(0, 1)
        shape = self._sizes(node.shape, node.name)
        bias = self._constant(node, bias_place) if bias_place > 0 else None
        biases = bias.value.numel() if bias is not None else 0
        cost = LayerCost(
            layer=op.name,
            op=op.kind,
            output_shape=shape,
            params=0 if bool(_selects(w)) and not biases else w.numel() + biases,
            macs=w.numel() * prod(shape[1:] if op.kind == "conv" else shape[:-1]),
            weight_bits=stored.bits,
            weight_bytes=(w.numel() * stored.bits + (biases + stored.scales) * FLOAT_BITS) // 8,
        )
        step, groups = (node.numbers.get(name, (1,)) for name in ("strides", "group"))
        return replace(op, cost=cost, weight=w, shape=shape, step=max(1, *step), groups=groups[0])

    def _norm(self, node: Node) -> Norm | None:
        parts = [self._constant(node, place) for place in range(1, 5)]
        if any(part is None for part in parts):
            return None
        weight, bias, mean, var = (part.value.float() for part in parts if part is not None)
        return Norm(weight, bias, mean, var, node.epsilon)

    def _handed_on(self, node: Node, constant: Constant) -> Constant:
        """A constant behind Q or DQ: in float, and stored in INT8."""
        scale = self._constant(node, 1)
        if node.op == "QuantizeLinear" and scale is not None:
            return Constant(constant.value, INT8_BITS, scale.value.numel())
        if node.op == "DequantizeLinear" and not constant.value.is_floating_point():
            return self._dequantized(constant, node, 1, node.numbers.get("axis", (1,))[0])
        return constant

    def _dequantized(self, constant: Constant, node: Node, place: int, axis: int) -> Constant:
        """``s (q - z)`` of integers whose scale and zero-point stand at this place of a node's inputs and the next."""
        scale, zero = self._constant(node, place), self._constant(node, place + 1)
        q = constant.value.float()
        bits = 8 * constant.value.element_size()
        if scale is None:
            return Constant(q, bits)
        shape = [-1 if dim == axis % q.dim() else 1 for dim in range(q.dim())] if scale.value.numel() > 1 else [-1]
        shifted = q if zero is None else q - zero.value.float().reshape(shape)
        return Constant(shifted * scale.value.float().reshape(shape), bits, scale.value.numel())

    def _constant(self, node: Node, place: int) -> Constant | None:
        return self._constants.get(node.inputs[place]) if 0 <= place < len(node.inputs) else None

    def _sizes(self, shape: tuple[int | None, ...] | None, whose: str) -> tuple[int, ...]:
        """A shape of which nothing is open.

        Raises:
            InputRefused: something is.
        """
        known = tuple(size for size in shape or () if size is not None)
        if shape is None or len(known) < len(shape):
            raise InputRefused(
                f"{self._path} leaves the shape of {whose} open.", "Export it for images of a fixed height and width."
            )
        return known


def _selects(w: Tensor) -> Bool[Tensor, ""]:
    """Whether a 1 x 1 convolution only picks channels, as shortcuts without parameters do."""
    rows = w.flatten(1)
    return ((rows == 0) | (rows == 1)).all() & (rows.sum(1) <= 1).all() & torch.tensor(w.shape[2:] == (1, 1))
