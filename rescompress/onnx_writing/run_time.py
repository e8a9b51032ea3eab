"""Layers whose input's range is found at run time, as the integer ops that ONNX has for them.

``DynamicQuantizeLinear`` gives ``q, s, z`` of the input; ``ConvInteger`` or ``MatMulInteger`` sums ``(q - z) w`` in
INT32; the sum times ``s`` times the weight's scale per channel, plus the bias, is the layer's output in float.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from rescompress.fakequant import QuantizeDequantize

DYNAMIC, DEQUANTIZE = "DynamicQuantizeLinear", "DequantizeLinear"
INTEGER_OPS = {"Conv": "ConvInteger", "Gemm": "MatMulInteger"}


class Rounded(nn.Module):
    """``DynamicQuantizeLinear`` and ``DequantizeLinear``, for the exporter only: it can't be computed here."""

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Something of the same shape."""
        q, s, z = torch.onnx.ops.symbolic_multi_out(
            DYNAMIC, (x,), dtypes=(torch.uint8, torch.float32, torch.uint8), shapes=(x.shape, (), ()), version=11
        )
        return torch.onnx.ops.symbolic(DEQUANTIZE, (q, s, z), dtype=x.dtype, shape=x.shape, version=13)


def mark(lowered: fx.GraphModule) -> None:
    """Let a lowered model's run-time quantizers export as ONNX's own ops, in place."""
    for path, module in list(lowered.named_modules()):
        if isinstance(module, QuantizeDequantize) and module.site.dynamic:
            lowered.set_submodule(path, Rounded())


def use_integers(graph: Any) -> None:
    """Rewrite each layer that reads a tensor quantized at run time and INT8 weights, in place.

    Args:
        graph: an ``onnx.GraphProto`` whose nodes and values have their last names.
    """
    makers = {value: node for node in graph.node for value in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        x, w = (_maker(makers, node, place, DEQUANTIZE) for place in (0, 1))
        if node.op_type in INTEGER_OPS and x and w and _maker(makers, x, 0, DYNAMIC) and _is_int8(stored[w.input[0]]):
            nodes += _integer_layer(node, x, w, stored, graph.initializer.append)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _maker(makers: dict[str, Any], node: Any, place: int, op: str) -> Any:
    """The node of a kind that makes an input; None where another or none does."""
    maker = makers.get(node.input[place]) if len(node.input) > place else None
    return maker if maker is not None and maker.op_type == op else None


def _is_int8(tensor: Any) -> bool:
    from onnx import TensorProto

    return bool(tensor.data_type == TensorProto.INT8)


def _integer_layer(node: Any, x: Any, w: Any, stored: dict[str, Any], store: Callable[[Any], None]) -> list[Any]:
    """The nodes that take a layer's place; the last of them makes the layer's output."""
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, array: NDArray[Any]) -> str:
        store(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def values(name: str) -> NDArray[Any]:
        return cast(NDArray[Any], numpy_helper.to_array(stored[name]))

    convolves, name = node.op_type == "Conv", node.name
    shape = (-1, 1, 1) if convolves else (-1,)
    weight = w.input[0] if convolves else constant(f"{w.input[0]}.transposed", values(w.input[0]).T)
    scale = constant(f"{name}.scales", values(w.input[1]).reshape(shape))
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute} if convolves else {}
    q, s, z = x.input
    sums, output, steps = f"{name}.sums", node.output[0], f"{name}.steps"
    made = [
        helper.make_node(INTEGER_OPS[node.op_type], [q, weight, z], [sums], name, **attributes),
        helper.make_node("Cast", [sums], [f"{sums}.float"], f"{name}.cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [s, scale], [steps], f"{name}.scale"),
        helper.make_node("Mul", [f"{sums}.float", steps], [output], f"{name}.mul"),
    ]
    if len(node.input) > 2:
        bias = constant(f"{name}.biases", values(node.input[2]).reshape(shape))
        made[-1].output[0] = f"{name}.scaled"
        made.append(helper.make_node("Add", [f"{name}.scaled", bias], [output], f"{name}.add"))
    return made
