"""Latency as a cost: how long each layer takes over the widths of its two sides."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import nn

from rescompress.benchmarking.layers import Estimator, LayerShape, shapes_of
from rescompress.pruning.groups import Group
from rescompress.pruning.terms import MAKERS, Costs, Term, Width, sides

MOST_KNOTS = 32
"""Widths of one side of a layer that are asked for."""
Grids = Sequence[Int[np.ndarray, " _"]]


class Surface:
    """Seconds of one layer over the widths of its two sides; linear between those that were asked for."""

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], seconds: Float[np.ndarray, "i o"]) -> None:
        self._inputs, self._outputs = np.asarray(inputs, float), np.asarray(outputs, float)
        self._seconds = seconds

    def __call__(self, inputs: Any, outputs: Any) -> Any:
        """Seconds at these widths, which may be arrays."""
        row, down = _between(self._inputs, inputs)
        column, right = _between(self._outputs, outputs)
        below, beside = np.minimum(row + 1, len(self._inputs) - 1), np.minimum(column + 1, len(self._outputs) - 1)
        t = self._seconds
        upper = t[row, column] * (1 - right) + t[row, beside] * right
        lower = t[below, column] * (1 - right) + t[below, beside] * right
        return upper * (1 - down) + lower * down


def timed(model: nn.Module, groups: Sequence[Group], grids: Grids, estimator: Estimator) -> Costs:
    """Seconds of all convolutions and linear layers at any widths on the grids.

    Args:
        model: a float model.
        groups: those that may be cut.
        grids: the widths that each may have.
        estimator: is asked for every shape that can occur, all at once.
    """
    widths, modules = sides(model, groups), dict(model.named_modules())
    plans: list[tuple[Width, Width, dict[tuple[int, int], LayerShape]]] = []
    for run, shape in shapes_of(model).items():
        name = layer_of(run, modules)
        inputs, outputs = widths(name) if name else (Width(shape.in_channels), Width(shape.out_channels))
        knots = product(_knots(inputs, grids), _knots(outputs, grids))
        plans.append((inputs, outputs, {(i, o): _resized(shape, i, o) for i, o in knots}))
    estimator.prepare(dict.fromkeys(shape for _, _, shapes in plans for shape in shapes.values()))
    return Costs([Term(inputs, outputs, _surface(shapes, estimator.seconds)) for inputs, outputs, shapes in plans])


def layer_of(run: str, modules: Mapping[str, nn.Module]) -> str | None:
    """The layer that a run belongs to: a layer's second run is named ``layer_1``. None for a function's own."""
    for name in (run, re.sub(r"_\d+$", "", run)):
        if isinstance(modules.get(name), MAKERS):
            return name
    return None


def _surface(shapes: Mapping[tuple[int, int], LayerShape], seconds: Callable[[LayerShape], float]) -> Surface:
    inputs, outputs = (sorted({pair[side] for pair in shapes}) for side in (0, 1))
    return Surface(inputs, outputs, np.array([[seconds(shapes[i, o]) for o in outputs] for i in inputs]))


def _resized(shape: LayerShape, inputs: int, outputs: int) -> LayerShape:
    """The shape at other widths; a grouped convolution has fewer groups, each as it was."""
    if shape.groups == 1:
        return replace(shape, in_channels=inputs, out_channels=outputs)
    groups = outputs * shape.groups // shape.out_channels
    inner = shape.in_channels // shape.groups
    return replace(shape, in_channels=groups * inner, out_channels=outputs, groups=groups)


def _knots(width: Width, grids: Grids) -> list[int]:
    """All widths that a side can have, or some of them spread evenly where they are many."""
    reached = {width.fixed}
    for group, places in width.parts:
        reached = {base + places * int(kept) for base in reached for kept in grids[group]}
        if len(reached) > MOST_KNOTS:
            ordered = sorted(reached)
            reached = {ordered[place] for place in np.linspace(0, len(ordered) - 1, MOST_KNOTS).round().astype(int)}
    return sorted(reached)


def _between(knots: Float[np.ndarray, " k"], at: Any) -> tuple[Any, Any]:
    """The knot below, and how far it is to the next one; beyond the last knots the cost stays as there."""
    at = np.clip(np.asarray(at, float), knots[0], knots[-1])
    below = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, max(len(knots) - 2, 0))
    if len(knots) == 1:
        return below, np.zeros(at.shape)
    return below, (at - knots[below]) / (knots[below + 1] - knots[below])
