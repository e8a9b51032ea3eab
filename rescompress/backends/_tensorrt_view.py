"""What TensorRT's rules about Q and DQ ask of an ONNX graph: who makes a value, who reads it, where integers flow."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

MOVES = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity")
"""Ops that only move values, so that Q and DQ pass them."""
WEIGHTED = {"Conv": "conv", "ConvTranspose": "conv", "Gemm": "linear", "MatMul": "linear"}
"""Ops with weights, and what our reports call them."""
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu")
"""What a convolution's kernel applies to what it writes."""
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class View:
    """An ONNX graph, seen from its values.

    Args:
        proto: the model. Its types and shapes are inferred; what can't be inferred is unknown.
    """

    def __init__(self, proto: "onnx.ModelProto") -> None:
        from onnx import shape_inference

        self.nodes: Sequence[Any] = proto.graph.node
        self._places = {name_of(node): place for place, node in enumerate(self.nodes)}
        self._stored = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._outputs = {value.name for value in proto.graph.output}
        self._makers = {value: node for node in self.nodes for value in node.output}
        self._readers: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for value in dict.fromkeys(node.input):
                self._readers[value].append(node)
        graph = shape_inference.infer_shapes(proto).graph
        self._types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
        self._constants: dict[str, bool] = {}

    def node(self, name: str) -> Any:
        """The node of this name."""
        return self.nodes[self._places[name]]

    def place(self, node: Any) -> int:
        """A node's place in the order of execution."""
        return self._places[name_of(node)]

    def maker(self, value: str) -> Any:
        """The node that makes a value, or None."""
        return self._makers.get(value)

    def readers(self, value: str) -> list[Any]:
        """The nodes that read a value."""
        return self._readers[value]

    def sole_reader(self, value: str) -> Any:
        """The node that alone reads a value which isn't an output of the model either, or None."""
        readers = self._readers[value]
        return readers[0] if len(readers) == 1 and value not in self._outputs else None

    def alone_behind(self, node: Any) -> Any:
        """The node that alone reads what a node makes, or None."""
        return self.sole_reader(node.output[0])

    def array(self, value: str) -> NDArray[Any] | None:
        """A stored tensor, or None."""
        from onnx import numpy_helper

        maker = self.maker(value)
        if maker is not None and maker.op_type == "Constant":
            return np.asarray(numpy_helper.to_array(attribute(maker, "value")))
        return np.asarray(numpy_helper.to_array(self._stored[value])) if value in self._stored else None

    def is_constant(self, value: str) -> bool:
        """Whether a value is computed from stored tensors alone."""
        if value not in self._constants:
            maker = self.maker(value)
            sources = [source for source in maker.input if source] if maker is not None else []
            stored = value in self._stored if maker is None else all(self.is_constant(source) for source in sources)
            self._constants[value] = stored
        return self._constants[value]

    def element_type(self, value: str) -> str:
        """Name of a value's element type as ONNX has it, such as ``FLOAT16``; empty where it is unknown."""
        from onnx import TensorProto

        kind = self._stored[value].data_type if value in self._stored else 0
        if not kind and value in self._types:
            kind = self._types[value].elem_type
        return str(TensorProto.DataType.Name(kind)) if kind else ""

    def shape(self, value: str) -> tuple[int, ...]:
        """Lengths of a value's axes, 0 where one is free; empty where nothing is known."""
        if value in self._stored:
            return tuple(self._stored[value].dims)
        return tuple(axis.dim_value for axis in self._types[value].shape.dim) if value in self._types else ()

    def dequantizer(self, value: str) -> Any:
        """The DQ that a value comes from, through nothing but moves and pooling by maximum; or None."""
        maker = self.maker(value)
        if maker is None or maker.op_type == DEQUANTIZE:
            return maker
        passes = maker.op_type in (*MOVES, "MaxPool")
        return self.dequantizer(maker.input[0]) if passes else None

    def leaves_as_integers(self, value: str) -> bool:
        """Whether every reader of a value quantizes it, at once or behind moves and pooling by maximum."""
        readers = self._readers[value]
        return (
            bool(readers) and value not in self._outputs and all(self.leads_to_integers(reader) for reader in readers)
        )

    def leads_to_integers(self, node: Any) -> bool:
        """Whether a node quantizes what it reads, or only moves it to where that is done."""
        passes = node.op_type in (*MOVES, "MaxPool")
        return node.op_type == QUANTIZE or (passes and self.leaves_as_integers(node.output[0]))


def name_of(node: Any) -> str:
    """A node's name, or its first output's where it has none."""
    return str(node.name or node.output[0])


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """The value of a node's attribute.

    Args:
        node: of an ONNX graph.
        name: of the attribute.
        default: where the node doesn't have it.
    """
    from onnx import helper

    return next((helper.get_attribute_value(found) for found in node.attribute if found.name == name), default)
