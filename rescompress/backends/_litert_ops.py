"""One function an op: how LiteRT computes it, in INT8 where its inputs and its output are integers, else in float."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from rescompress import graph
from rescompress.backends._litert_file import Grid, Value
from rescompress.backends._litert_graph import (
    Kernel,
    Step,
    Stored,
    Translation,
    activation_of,
    arguments,
    plane,
    refused,
    shape_of,
    stored_shape,
)
from rescompress.backends._litert_padding import Window, padded, pair
from rescompress.backends._litert_pools import avg_pool, max_pool

PROBABILITIES = Grid((1 / 256,), -128)
"""What LOGISTIC and SOFTMAX write in INT8 (TFLite's 8-bit quantization specification)."""


def conv(t: Translation, node: Any) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D where each group has one channel."""
    _, w, b, stride, pads, dilation, groups = arguments(node, None, None, None, 1, 0, 1, 1)
    step, weight = t.step(node), t.stored(w)
    kernel, x = _kernel(t, step, weight)
    window = Window(
        plane(node.args[0]), plane(node), pair(weight.array.shape[2:]), pair(stride), pair(pads), pair(dilation)
    )
    x, padding = padded(t, x, window, graph.name_of(node))
    depthwise = groups > 1 and weight.array.shape[1] == 1
    order, axis = ((1, 2, 3, 0), 3) if depthwise else ((0, 2, 3, 1), 0)
    inputs: list[Value | None] = [
        x,
        t.weight(f"{graph.name_of(node)}.weight", weight, order, axis, integers=kernel != "float"),
    ]
    inputs.append(_bias(t, step, kernel, x, weight, b))
    options = {"padding": t.number("Padding", padding), **window.options, **window.dilations}
    if depthwise:
        options["depthMultiplier"] = len(weight.array) // groups
    code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    t.make(code, inputs, step, kernel, fusedActivationFunction=0, **options)


def linear(t: Translation, node: Any) -> None:
    """FULLY_CONNECTED; a hybrid one rounds its input as eager does, with a zero-point."""
    _, w, b = arguments(node, None, None, None)
    step, weight = t.step(node), t.stored(w)
    if len(shape_of(node)) != 1:
        raise refused(node)
    kernel, x = _kernel(t, step, weight)
    inputs: list[Value | None] = [
        x,
        t.weight(f"{graph.name_of(node)}.weight", weight, (0, 1), 0, integers=kernel != "float"),
    ]
    inputs.append(_bias(t, step, kernel, x, weight, b))
    options = {"asymmetricQuantizeInputs": kernel == "hybrid"}
    t.make("FULLY_CONNECTED", inputs, step, kernel, fusedActivationFunction=0, **options)


def add(t: Translation, node: Any) -> None:
    """ADD."""
    _elementwise(t, node, "ADD")


def mul(t: Translation, node: Any) -> None:
    """MUL."""
    _elementwise(t, node, "MUL")


def sigmoid(t: Translation, node: Any) -> None:
    """LOGISTIC, in INT8 where its output has the one grid that the kernel writes; else in float, to keep its scale."""
    step, x = t.step(node, fuses=False), t.values[node.args[0]]
    if step.grid is not None and step.grid.same(PROBABILITIES) and x.grid is not None:
        t.make("LOGISTIC", [x], step, "int8")
    else:
        t.make("LOGISTIC", [t.in_float(node.args[0])], step)


def relu(t: Translation, node: Any) -> None:
    """A ReLU that nothing runs: on integers whose lowest is zero, another grid does it."""
    step, x = t.step(node, fuses=False), t.values[node.args[0]]
    if step.grid is not None and x.grid is not None and step.grid.zero == -128 and graph.op_of(node) == "relu":
        t.values[node] = t.requantized(x, step.grid)
    else:
        code = activation_of(node)
        if not code:
            raise refused(node)
        t.make(code, [t.in_float(node.args[0])], step)


def batch_norm(t: Translation, node: Any) -> None:
    """A normalization that stands alone: ``x g + (β - μ g)`` with ``g = γ / sqrt(σ² + ε)``, in float."""
    x, gamma, beta, mean, variance = node.args[:5]
    epsilon = node.args[6 if "native" in str(node.target) else 7]
    read = [t.stored(n).array.astype(np.float64) for n in (gamma, beta, mean, variance)]
    g = read[0] / np.sqrt(read[3] + epsilon)
    name, step = graph.name_of(node), t.step(node)
    factor = t.file.constant(f"{name}/factor", g.astype(np.float32))
    offset = t.file.constant(f"{name}/offset", (read[1] - read[2] * g).astype(np.float32))
    scaled = t.file.op("MUL", [t.in_float(x), factor], t.file.value(f"{name}/scaled", step.shape))
    made = t.make("ADD", [scaled, offset], step, fusedActivationFunction=0)
    t.values.update(dict.fromkeys(node.users, made))


def reshape(t: Translation, node: Any) -> None:
    """RESHAPE; a TRANSPOSE where channels and places mix."""
    source = node.args[0]
    x, before, after = t.values[source], shape_of(source), shape_of(node)
    name = graph.name_of(node)
    if _mixes(before):
        axes = t.file.constant(f"{name}/axes", np.array([0, 3, 1, 2], np.int32))
        x = t.move("TRANSPOSE", [x, axes], f"{name}/first", before)
    last = _mixes(after)
    stored = after if last else stored_shape(node)
    size = t.file.constant(f"{name}/shape", np.array([t.file.batch or -1, *stored], np.int32))
    x = t.move("RESHAPE", [x, size], f"{name}/first" if last else name, stored)
    if last:
        axes = t.file.constant(f"{name}/axes", np.array([0, 2, 3, 1], np.int32))
        x = t.move("TRANSPOSE", [x, axes], name, stored_shape(node))
    t.values[node] = x


def same(t: Translation, node: Any) -> None:
    """A copy of the whole value is the value."""
    if shape_of(node) != shape_of(node.args[0]) or node.meta["val"].shape[0] != node.args[0].meta["val"].shape[0]:
        raise refused(node)
    t.values[node] = t.values[node.args[0]]


def concatenate(t: Translation, node: Any) -> None:
    """CONCATENATION along the channels, each input moved to the output's grid first."""
    sources, axis = arguments(node, None, 0)
    step, rank = t.step(node, fuses=False), len(shape_of(node)) + 1
    if axis % rank != 1:
        raise refused(node)
    if step.grid is not None and all(t.values[source].grid for source in sources):
        inputs = [t.requantized(t.values[source], step.grid) for source in sources]
        t.make("CONCATENATION", inputs, step, "int8", axis=rank - 1)
    else:
        t.make("CONCATENATION", [t.in_float(source) for source in sources], step, axis=rank - 1)


def resize(t: Translation, node: Any) -> None:
    """RESIZE_BILINEAR or RESIZE_NEAREST_NEIGHBOR, in float."""
    step, bilinear = t.step(node, fuses=False), "bilinear" in str(node.target)
    before, after = shape_of(node.args[0])[1:], shape_of(node)[1:]
    whole = all(new % old == 0 for old, new in zip(before, after, strict=True))
    if not bilinear and not whole:
        raise refused(node)
    size = t.file.constant(f"{step.name}/size", np.array(after, np.int32))
    aligned = bool(bilinear and node.args[2])
    code = "RESIZE_BILINEAR" if bilinear else "RESIZE_NEAREST_NEIGHBOR"
    corners = {"alignCorners": aligned, "halfPixelCenters": bilinear and not aligned}
    t.make(code, [t.in_float(node.args[0]), size], step, "float", **corners)


OPS: dict[str, Callable[[Translation, Any], None]] = {
    "conv": conv,
    "linear": linear,
    "add": add,
    "mul": mul,
    "sigmoid": sigmoid,
    "relu": relu,
    "relu6": relu,
    "hardtanh": relu,
    "batch_norm": batch_norm,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "reshape": reshape,
    "unsqueeze": reshape,
    "squeeze": reshape,
    "clone": same,
    "slice": same,
    "cat": concatenate,
    "upsample_bilinear2d": resize,
    "upsample_nearest2d": resize,
}
"""How each op of a captured graph is written; any other is refused by name."""


def _kernel(t: Translation, step: Step, weight: Stored) -> tuple[Kernel, Value]:
    """What a layer computes with, and its input for that."""
    source: Any = step.node.args[0]
    if weight.grid is None:
        return "float", t.in_float(source)
    rounding = t.rounding(source)
    if rounding is not None and rounding.site.dynamic:
        return "hybrid", t.in_float(source)
    if rounding is not None and step.grid is not None:
        return "int8", t.values[source]
    return "float", t.in_float(source)


def _bias(t: Translation, step: Step, kernel: Kernel, x: Value, weight: Stored, node: Any) -> Value | None:
    """A layer's bias: of integers, INT32 on the accumulator's grid; of floats, float."""
    name = f"{graph.name_of(step.node)}.bias"
    stored = t.stored(node) if node is not None else None
    if kernel == "int8" and x.grid is not None and weight.grid is not None:
        if stored is None or stored.grid is None:
            scales = np.float32(x.grid.scales[0]) * np.array(weight.grid.scales, np.float32)
            floats = 0.0 if stored is None else stored.array.astype(np.float64)
            stored = Stored(
                np.round(floats / scales.astype(np.float64)).astype(np.int32), "int32", Grid(tuple(scales.tolist()))
            )
        return t.file.constant(name, stored.array, stored.grid)
    if stored is None:
        return t.file.constant(name, np.zeros(len(weight.array), np.float32))
    if stored.grid is not None:
        return t.file.constant(name, (stored.array * np.array(stored.grid.scales)).astype(np.float32))
    return t.file.constant(name, stored.array)


def _elementwise(t: Translation, node: Any, code: str) -> None:
    if node.kwargs:
        raise refused(node)
    step, constant = t.step(node), [not isinstance(n, fx.Node) or n.op == "get_attr" for n in node.args]
    integer = step.grid is not None and not any(constant) and all(t.values[n].grid for n in node.args)
    inputs = [t.values[n] if integer else t.in_float(n) for n in node.args]
    t.make(code, inputs, step, "int8" if integer else "float", fusedActivationFunction=0)


def _mixes(shape: tuple[int, ...]) -> bool:
    """Whether channels first and channels last differ in memory."""
    return len(shape) == 3 and shape[0] > 1 and shape[1] * shape[2] > 1
