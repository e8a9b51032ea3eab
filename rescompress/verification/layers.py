"""Which layer of an artifact computes something else: each is compared on the artifact's own inputs.

Eager PyTorch computes one step, the artifact's value takes the step's place, and so on to the end. So nothing that an
earlier layer or a rounding has changed can hide what a later layer does, and none is blamed for another's fault.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from rescompress import fakequant, graph, metrics, models
from rescompress.agreement import LayerAgreement
from rescompress.backends import OUTPUT, ROUNDED

Array = NDArray[np.float32]
WEIGHTED = ("conv", "linear")
FLIPS = 4
"""Values that may be rounded to the other side however few there are: in 512 values one flip alone is 50 dB."""


def compare(
    model: nn.Module,
    images: Tensor,
    theirs: Mapping[str, Array],
    least_db: Callable[[str, int], float],
    *,
    probabilities: bool = False,
) -> tuple[LayerAgreement, ...]:
    """How well each layer of an artifact computes what the same layer of its model computes.

    Args:
        model: float or quantized.
        images: normalized, ``[n, 3, h, w]``.
        theirs: what the artifact computes inside for these images, by name (``backends.Watched``).
        least_db: the SQNR below which the value of this name departs, with so many roundings before it unseen.
        probabilities: the artifact's output are those.

    Returns:
        A row for each value that both sides have, in order of execution.
    """
    traced = graph.capture(model, models.spec_of(model).input_shape, functional=False)
    names = _names(traced, theirs)
    so_far = dict[fx.Node, float]()
    end = models.in_rows if not probabilities else lambda output: models.in_rows(output).softmax(1)

    def seen(node: fx.Node, value: Any) -> None:
        if node in names and (node.op == "output" or isinstance(value, Tensor)):
            so_far[node] = _sqnr_db(end(value) if node.op == "output" else value, theirs[names[node]])

    with graph.evaluating(traced), torch.no_grad():
        graph.watch(traced, images, seen)
        forced = _Forced(traced, {node: theirs[name] for node, name in names.items()}, end)
        forced.run(images)
    return tuple(_row(traced, node, names, forced, so_far[node], least_db) for node in forced.own_db)


def _row(
    traced: fx.GraphModule,
    node: fx.Node,
    names: Mapping[fx.Node, str],
    forced: "_Forced",
    so_far_db: float,
    least_db: Callable[[str, int], float],
) -> LayerAgreement:
    """What one value shows."""
    steps = _between(traced, node, names)
    unseen = sum(fakequant.quantizer_behind(traced, step) is not None for step in steps if step is not node)
    named = [step for step in steps if "value_name" in step.meta and graph.op_of(step) != "reshape"]
    weighted = [step for step in named if graph.op_of(step) in WEIGHTED]
    ends = dict.fromkeys(graph.name_of(step) for step in (*named[:1], *(weighted or named)[:1]))
    layer = " to ".join(ends) or names[node].removesuffix(ROUNDED)
    least = min(least_db(names[node], unseen), forced.flips_db.get(node, math.inf))
    return LayerAgreement(layer, names[node], forced.own_db[node], so_far_db, least)


class _Forced(fx.Interpreter):
    """Runs a graph in which some values are given, and notes how near it would have come to them itself.

    Attributes:
        own_db: SQNR of what is given, for each step that has it.
        flips_db: the SQNR that a few values cost which are rounded to the other side, for each step that rounds.
    """

    def __init__(self, traced: fx.GraphModule, given: Mapping[fx.Node, Array], end: Callable[[Any], Tensor]) -> None:
        super().__init__(traced)
        self._traced, self._given, self._end = traced, given, end
        self.own_db: dict[fx.Node, float] = {}
        self.flips_db: dict[fx.Node, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        """What the step makes, or what is given in its place."""
        made = super().run_node(n)
        given = self._given.get(n)
        if given is None or not (n.op == "output" or isinstance(made, Tensor)):
            return made
        made = self._end(made) if n.op == "output" else made
        self.own_db[n] = _sqnr_db(made, given)
        quantizer = fakequant.quantizer_behind(self._traced, n)
        if quantizer is not None and not quantizer.site.dynamic:
            flips = FLIPS * float(quantizer.scale[0]) ** 2
            self.flips_db[n] = 10 * math.log10(max(float(made.double().square().sum()), flips) / flips)
        return torch.from_numpy(np.array(given)) if made.shape == given.shape else made


def _sqnr_db(ours: Tensor, theirs: Array) -> float:
    """In dB; NaN where the artifact's value is not finite, and minus infinity where it has another shape."""
    if tuple(ours.shape) != theirs.shape:
        return -np.inf
    return metrics.sqnr_db(ours.numpy(), theirs) if np.isfinite(theirs).all() else np.nan


def _names(traced: fx.GraphModule, theirs: Mapping[str, Array]) -> dict[fx.Node, str]:
    """The artifact's name of each step's value, for the steps that it shows."""
    found: dict[fx.Node, str] = {}
    for node in traced.graph.nodes:
        if fakequant.quantizer_behind(traced, node) is not None:
            name = f"{node.args[0].meta.get('value_name', '')}{ROUNDED}"
        elif node.op == "output":
            name = OUTPUT
        elif "value_name" in node.meta:
            name = graph.name_of(node)
        else:
            continue
        if name in theirs:
            found[node] = name
    for node in traced.graph.nodes:
        if graph.op_of(node) == "batch_norm":
            _name_folded(node, found, theirs)
    return found


def _name_folded(norm: fx.Node, found: dict[fx.Node, str], theirs: Mapping[str, Array]) -> None:
    """A BatchNorm that an exporter folds into its convolution leaves one value, which bears either name."""
    source = norm.args[0]
    own, before = graph.name_of(norm), graph.name_of(source) if isinstance(source, fx.Node) else ""
    result = next((user for user in norm.users if graph.op_of(user) == "getitem"), norm)  # of a functional graph
    name = next((name for name in (own, before) if name in theirs), None)
    if name is None:
        return
    found.pop(norm, None)
    if name == before and isinstance(source, fx.Node):
        found.pop(source, None)
    found[result] = name


def _between(traced: fx.GraphModule, node: fx.Node, names: Mapping[fx.Node, str]) -> list[fx.Node]:
    """The steps between a value and those before it that are known, itself included, in order of execution."""
    between, todo = {node}, list(node.all_input_nodes)
    while todo:
        other = todo.pop()
        weight = other.op == "call_module" and other.all_input_nodes[0].op == "get_attr"
        if weight or other.op in ("get_attr", "placeholder") or other in names or other in between:
            continue
        between.add(other)
        todo += other.all_input_nodes
    return [each for each in traced.graph.nodes if each in between]
