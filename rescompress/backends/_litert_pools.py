"""Pooling: the largest and the mean of a window, on the grid that the window's numbers lie on."""

from typing import Any

import numpy as np
from torch import fx

from rescompress import graph
from rescompress.backends._litert_file import Value
from rescompress.backends._litert_graph import Translation, arguments, plane, refused, shape_of, stored_shape
from rescompress.backends._litert_padding import Window, padded, pair

NEVER_NEGATIVE = ("relu", "relu6", "sigmoid")
"""Ops below whose values zeros are never above: padding with zeros then leaves a maximum as it is."""


def max_pool(t: Translation, node: Any) -> None:
    """MAX_POOL_2D on its input's grid; padding never wins, so zeros do where nothing is below them."""
    source, kernel, stride, pads, dilation, _ = arguments(node, None, None, [], 0, 1, False)
    if pair(dilation) != (1, 1):
        raise refused(node)
    window = _window(node, kernel, stride, pads)
    lowest = graph.op_of(_behind_rounding(t, source)) not in NEVER_NEGATIVE
    x, padding = padded(t, t.values[source], window, graph.name_of(node), lowest=lowest)
    t.values[node] = _pool(t, "MAX_POOL_2D", x, node, window, padding)


def avg_pool(t: Translation, node: Any) -> None:
    """MEAN over a whole image; AVERAGE_POOL_2D over windows, on its input's grid."""
    target, source = str(node.target), node.args[0]
    whole = "mean" in target and sorted(axis % 4 for axis in node.args[1]) == [2, 3]
    if whole or ("adaptive" in target and pair(node.args[1]) == (1, 1)):
        step = t.step(node, fuses=False)
        axes = t.file.constant(f"{step.name}/axes", np.array([1, 2], np.int32))
        options = {"keepDims": len(shape_of(node)) == 3}
        if t.values[source].grid and step.grid:
            t.make("MEAN", [t.values[source], axes], step, "int8", **options)
        else:
            t.make("MEAN", [t.in_float(source), axes], step, "float", **options)
    elif "mean" in target:
        raise refused(node)
    elif "adaptive" in target:
        steps = [divmod(n, m) for n, m in zip(plane(source), plane(node), strict=True)]
        if any(rest for _, rest in steps):
            raise refused(node)
        t.values[node] = _averaged(t, node, _window(node, [n for n, _ in steps], [], 0), counts_pads=True)
    else:
        _, kernel, stride, pads, _, counts_pads, divisor = arguments(node, None, None, [], 0, False, True, None)
        if divisor is not None:
            raise refused(node)
        t.values[node] = _averaged(t, node, _window(node, kernel, stride, pads), counts_pads=counts_pads)


def _window(node: Any, kernel: Any, stride: Any, pads: Any) -> Window:
    return Window(plane(node.args[0]), plane(node), pair(kernel), pair(stride or kernel), pair(pads))


def _averaged(t: Translation, node: Any, window: Window, *, counts_pads: bool) -> Value:
    """LiteRT leaves what lies outside the image out of the mean, PyTorch counts the padding that was asked for."""
    x, padding = t.values[node.args[0]], "VALID"
    asked = tuple((p, p) for p in window.pads)
    if any(map(any, window.margins)):
        if window.same and (not counts_pads or not any(window.pads)):
            padding = "SAME"
        elif counts_pads and all(m[1] <= a[1] for m, a in zip(window.margins, asked, strict=True)):
            x, padding = padded(t, x, window, graph.name_of(node), explicit=True)
        else:
            raise refused(node)
    return _pool(t, "AVERAGE_POOL_2D", x, node, window, padding)


def _pool(t: Translation, code: str, x: Value, node: Any, window: Window, padding: str) -> Value:
    options = {"padding": t.number("Padding", padding), **window.options, **window.filters}
    return t.move(code, [x], graph.name_of(node), stored_shape(node), **options)


def _behind_rounding(t: Translation, node: Any) -> fx.Node:
    """The node that made a value which may have been rounded since."""
    while t.rounding(node) is not None:
        node = node.args[0]
    return node  # type: ignore[no-any-return]
