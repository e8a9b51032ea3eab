"""From a captured graph to LiteRT's tensors: which tensor a value is, in integers or in float, channels last."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from rescompress import fakequant, graph
from rescompress.backends._litert_file import Grid, TfliteFile, Value
from rescompress.errors import InputRefused

Kernel = Literal["float", "int8", "hybrid"]
"""What an operator computes with; ``hybrid`` rounds its float input at run time and multiplies integers."""
VERSIONS: dict[str, tuple[int, int, int]] = {
    "CONV_2D": (1, 3, 5),
    "DEPTHWISE_CONV_2D": (2, 3, 6),
    "FULLY_CONNECTED": (1, 4, 9),
    "RESHAPE": (1, 1, 1),
}
"""The operator's version in float, in INT8 and as a hybrid; ``(1, 2, 2)`` for the others."""
DEQUANTIZE_VERSION = {"float16": 3, "int8": 5, "int4": 6}
NARROW_VERSION = 10
"""From here on, layers take weights in INT4."""
RELU, RELU6 = "RELU", "RELU6"


@dataclass(frozen=True)
class Step:
    """What one operator has to make.

    Attributes:
        node: the graph's.
        result: the node whose value the operator makes, with the activation that it runs itself.
        activation: its name in the schema.
        name: of the tensor: the module's path, and that of the activation behind a semicolon.
        shape: stored, without the batch.
        grid: of the integers that are wanted of it; None where the value is wanted in float.
    """

    node: fx.Node
    result: fx.Node
    activation: str
    name: str
    shape: tuple[int, ...]
    grid: Grid | None


@dataclass(frozen=True)
class Stored:
    """A parameter as the graph holds it: integers with their grid, or float."""

    array: NDArray[Any]
    dtype: str
    grid: Grid | None


class Translation:
    """A file that grows node by node, and the tensor that each node's value became.

    Args:
        traced: a captured graph, lowered where it is quantized.
        file: what is written to.
        half: whether float weights are stored in FP16.
    """

    def __init__(self, traced: fx.GraphModule, file: TfliteFile, *, half: bool) -> None:
        self.traced, self.file, self.half = traced, file, half
        self.values: dict[fx.Node, Value] = {}
        self._in_float: dict[int, Value] = {}

    def step(self, node: fx.Node, *, fuses: bool = True) -> Step:
        """What a node's operator has to make, a ReLU that alone reads it included."""
        result, activation, name = node, "NONE", graph.name_of(node)
        if graph.op_of(node) == "batch_norm":
            result = next((user for user in node.users if user.target is operator.getitem), node)
        users = list(result.users)
        if fuses and len(users) == 1 and (found := activation_of(users[0])):
            result, activation, name = users[0], found, f"{name};{graph.name_of(users[0])}"
        behind = [module for user in result.users if (module := self.rounding(user))]
        grid = grid_of(behind[0]) if behind and not behind[0].site.dynamic else None
        return Step(node, result, activation, name, stored_shape(result), grid)

    def make(
        self, code: str, inputs: Sequence[Value | None], step: Step, kernel: Kernel = "float", **options: Any
    ) -> Value:
        """Append the operator that makes a step's value, in float or in integers on the step's grid."""
        grid = step.grid if kernel == "int8" else None
        output = self.file.value(step.name, step.shape, "int8" if grid else "float32", grid)
        if "fusedActivationFunction" in options:
            options["fusedActivationFunction"] = self.number("ActivationFunctionType", step.activation)
        version = VERSIONS.get(code, (1, 2, 2))[("float", "int8", "hybrid").index(kernel)]
        if any(value is not None and value.dtype == "int4" for value in inputs):
            version = NARROW_VERSION if code == "FULLY_CONNECTED" else NARROW_VERSION - 3
        self.values[step.result] = self.file.op(code, inputs, output, version, **options)
        return output

    def move(self, code: str, inputs: Sequence[Value], name: str, shape: Sequence[int], **options: Any) -> Value:
        """Append an operator that moves or compares values, whose output stays on its input's grid."""
        source = inputs[0]
        output = self.file.value(name, shape, source.dtype, source.grid)
        version = VERSIONS.get(code, (1, 2, 2))[1 if source.grid else 0]
        return self.file.op(code, inputs, output, version, **options)

    def number(self, enum: str, name: str) -> int:
        """The schema's number of one name of an enumeration."""
        return cast(int, getattr(getattr(self.file.schema, enum), name))

    def in_float(self, argument: object) -> Value:
        """A node's value in float: dequantized where it is integers; a number or a parameter as a constant."""
        if not isinstance(argument, fx.Node) or argument.op == "get_attr":
            return self._constant(argument)
        value = self.values[argument]
        if value.grid is None:
            return value
        if value.index not in self._in_float:
            output = self.file.value(f"{value.name}/dequantized", value.shape[1:])
            self._in_float[value.index] = self.file.op("DEQUANTIZE", [value], output, 2)
        return self._in_float[value.index]

    def requantized(self, value: Value, grid: Grid) -> Value:
        """A value's integers on another grid; from float, its first."""
        if value.grid is not None and value.grid.same(grid):
            return value
        version = 1 if value.grid is None else 2
        output = self.file.value(f"{value.name}/quantized", value.shape[1:], "int8", grid)
        return self.file.op("QUANTIZE", [value], output, version)

    def rounding(self, node: object) -> fakequant.QuantizeDequantize | None:
        """The lowered fake-quant that a node calls."""
        module = self._module(node)
        return module if isinstance(module, fakequant.QuantizeDequantize) else None

    def stored(self, node: fx.Node) -> Stored:
        """A parameter of a layer, in the dtype that the model holds it in."""
        module = self._module(node)
        if isinstance(module, fakequant.Dequantize):
            grid = Grid(tuple(cast(Tensor, module.scale).tolist()))
            return Stored(module.integers.numpy(), module.dtype, grid)
        if node.op != "get_attr":
            raise refused(node)
        return Stored(graph.tensor_of(self.traced, node).detach().float().numpy(), "float32", None)

    def weight(self, name: str, stored: Stored, order: tuple[int, ...], axis: int, *, integers: bool) -> Value:
        """A layer's weight with its axes in LiteRT's order; in float unless the kernel takes integers."""
        array = stored.array.transpose(order)
        if stored.grid is None and not self.half:
            return self.file.constant(name, array)
        if stored.grid is None:
            value = self.file.constant(name, array.astype(np.float16))
        else:
            grid = Grid(stored.grid.scales, 0, axis)
            value = self.file.constant(name, array, grid, dtype=stored.dtype)
        if integers:
            return value
        tensor = self.file.value(f"{name}/dequantized", array.shape[1:])
        self.file.tensors[tensor.index].shape = list(array.shape)
        self.file.tensors[tensor.index].shapeSignature = None
        return self.file.op("DEQUANTIZE", [value], tensor, DEQUANTIZE_VERSION[value.dtype])

    def _module(self, node: object) -> nn.Module | None:
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        return self.traced.get_submodule(str(node.target))

    def _constant(self, argument: object) -> Value:
        if isinstance(argument, fx.Node):
            array = self.stored(argument).array.astype(np.float32)
            if array.ndim >= 3:  # [1, c, h, w] or [c, h, w]: the channels go last
                array = np.moveaxis(array, -3, -1)
            return self.file.constant(graph.name_of(argument), array)
        return self.file.constant("constant", np.array(argument, np.float32).reshape(1))


def activation_of(node: fx.Node) -> str:
    """The schema's name of the activation that a node is; empty where it is none."""
    op = graph.op_of(node)
    if op == "relu":
        return RELU
    return RELU6 if op == "relu6" or (op == "hardtanh" and node.args[1:] == (0.0, 6.0)) else ""


def grid_of(module: fakequant.QuantizeDequantize) -> Grid:
    """Scale and zero-point of a rounded value."""
    scale, zero = module.arguments[:2]
    return Grid((float(np.float32(scale)),), int(zero))


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of one image's value, channels first."""
    value = node.meta["val"]
    sizes = (value[0] if isinstance(value, (tuple, list)) else value).shape[1:]
    if not all(isinstance(size, int) for size in sizes):
        raise refused(node)
    return tuple(sizes)


def plane(node: fx.Node) -> tuple[int, int]:
    """Height and width of an image's value."""
    _, height, width = shape_of(node)
    return height, width


def stored_shape(node: fx.Node) -> tuple[int, ...]:
    """Shape of one image's value, channels last."""
    shape = shape_of(node)
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def arguments(node: Any, *defaults: Any) -> list[Any]:
    """An op's arguments with defaults for those that the graph leaves out."""
    if node.kwargs:
        raise refused(node)
    return [*node.args, *defaults[len(node.args) :]]


def refused(node: fx.Node) -> InputRefused:
    """An op that isn't written for LiteRT."""
    return InputRefused(
        f"{graph.name_of(node)} ({graph.op_of(node)}) can't be written for LiteRT.", "Export to onnxruntime."
    )
