"""How much each layer in INT8 alone disturbs the network, and which of them go back to float."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeGuard

import torch
from jaxtyping import Float, Int
from torch import Tensor, fx

from rescompress import fakequant, graph, metrics, models, progress
from rescompress.graph import op_of
from rescompress.sites import Site
from rescompress.spec import Proportion

STEPS = ("conv", "linear", "add", "mul", "sigmoid", "avg_pool")
"""What can be in INT8 or not by itself."""
Place = Callable[[Collection[str]], tuple[Site, ...]]
"""From the layers that stay in float to the sites of all others."""
Labelled = Callable[[], Iterable[tuple[Float[Tensor, "_ 3 h w"], Int[Tensor, " _"]]]]
"""Batches of normalized images and their labels, each time anew."""
NONE: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Sensitivity:
    """What one layer in INT8 alone does.

    Attributes:
        layer: its name.
        sqnr_db: of the network's output.
    """

    layer: str
    sqnr_db: float


@dataclass(frozen=True)
class Trial:
    """One step of the search.

    Attributes:
        layers: those that are in float.
        accuracy: on the held-out images.
    """

    layers: tuple[str, ...]
    accuracy: Proportion


@torch.no_grad()
def sensitivities(
    traced: fx.GraphModule, images: Float[Tensor, "n 3 h w"], weights: Mapping[str, Tensor] = NONE
) -> tuple[Sensitivity, ...]:
    """The quantized layers and adds, the most sensitive first: each alone computes in INT8.

    That takes its weights, its inputs, and its output where the runtime writes that as INT8.

    Args:
        traced: a quantized model.
        images: normalized; a few dozen tell the order.
        weights: of the float network, parameters by name, where rounding or correcting has moved them.
    """
    with in_float(traced, weights):
        truth = models.in_rows(traced(images)).numpy()
    found = []
    for node in progress.track([n for n in traced.graph.nodes if op_of(n) in STEPS], "sensitivity"):
        own = [fakequant.quantizer_behind(traced, at) for at in (*node.all_input_nodes, *_behind(node).users)]
        names = {quantizer.site.quantizer for quantizer in own if quantizer is not None}
        if names:
            with in_float(traced, weights, names):
                alone = models.in_rows(traced(images)).numpy()
            found.append(Sensitivity(graph.name_of(node), metrics.sqnr_db(truth, alone)))
    return tuple(sorted(found, key=lambda each: each.sqnr_db))


def _behind(node: fx.Node) -> fx.Node:
    """The value that leaves the kernel: a ReLU that alone reads a layer runs in it."""
    users = list(node.users)
    return users[0] if len(users) == 1 and op_of(users[0]) == "relu" else node


@torch.no_grad()
def holds(traced: fx.GraphModule, held_out: Labelled, most_lost: float, weights: Mapping[str, Tensor] = NONE) -> bool:
    """Whether a quantized model loses no more points of top-1 than may be; says so if it does.

    Args:
        traced: a quantized model.
        held_out: images that calibration hasn't seen.
        most_lost: points of top-1 against the float network on these images.
        weights: of the float network, parameters by name.
    """
    with in_float(traced, weights):
        goal = _accuracy(traced, held_out)
    found = _accuracy(traced, held_out)
    kept = found.percent >= goal.percent - most_lost - 1e-9
    if kept:
        said = f"top-1 on {found.total} held-out images is {found.percent:.2f} %, {goal.percent:.2f} % in float"
        progress.note(f"quantize: {said}; all layers stay in INT8.")
    return kept


@torch.no_grad()
def fewest_in_float(
    traced: fx.GraphModule, place: Place, held_out: Labelled, most_lost: float, weights: Mapping[str, Tensor] = NONE
) -> tuple[tuple[str, ...], tuple[Trial, ...]]:
    """The layers that go back to float so that no more than so many points of top-1 are lost, as few as were found.

    The most sensitive layers go first; how many are needed is bisected; each of them, the least sensitive first, then
    tries to come back to INT8.

    Args:
        traced: a quantized model; it is left as it was.
        place: where fake-quants stand if some layers stay in float.
        held_out: images that calibration hasn't seen.
        most_lost: points of top-1 against the float network on these images.
        weights: of the float network, parameters by name, where rounding or correcting has moved them.

    Returns:
        The layers, and every step of the search in order; the first step has all layers in INT8.
    """
    with in_float(traced, weights):
        goal = _accuracy(traced, held_out).percent - most_lost - 1e-9
    trials: list[Trial] = []

    def holds_with(layers: Sequence[str]) -> bool:
        with in_float(traced, weights, {site.quantizer for site in place(layers)}):
            trials.append(Trial(tuple(layers), _accuracy(traced, held_out)))
        return trials[-1].accuracy.percent >= goal

    if holds_with(()):
        return (), tuple(trials)
    order = [each.layer for each in sensitivities(traced, next(iter(held_out()))[0], weights)]
    few, many = 0, len(order)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if holds_with(order[:middle]) else (middle, many)
    chosen = order[:many]
    for layer in reversed(chosen[:-1]):
        without = [other for other in chosen if other != layer]
        chosen = without if holds_with(without) else chosen
    return tuple(chosen), tuple(trials)


@contextlib.contextmanager
def in_float(traced: fx.GraphModule, weights: Mapping[str, Tensor], but: Collection[str] = ()) -> Iterator[None]:
    """Let layers be what they would be in float: nothing is rounded, and their parameters are the float network's.

    Args:
        traced: a quantized model.
        weights: of the float network, parameters by name; those that are missing stay as they are.
        but: names of quantizers that go on rounding; a layer whose weights they round keeps its parameters.
    """
    moved = []
    for node in traced.graph.nodes:
        quantizer = fakequant.quantizer_behind(traced, node)
        if quantizer is not None and quantizer.site.is_weight and quantizer.site.quantizer not in but:
            moved += [source for user in node.users for source in (node.args[0], *user.args[2:3])]
    tensors = {node: graph.tensor_of(traced, node) for node in moved if _known(node, weights)}
    before = {node: tensor.detach().clone() for node, tensor in tensors.items()}
    with torch.no_grad(), fakequant.passing(traced, but):
        try:
            for node, tensor in tensors.items():
                tensor.copy_(weights[str(node.target)])
            yield
        finally:
            for node, tensor in tensors.items():
                tensor.copy_(before[node])


def to_float(traced: fx.GraphModule, sites: Sequence[Site], weights: Mapping[str, Tensor]) -> None:
    """Take away the fake-quants that are in none of the sites, in place, and give such layers their float weights.

    Args:
        traced: a quantized model.
        sites: those that stay.
        weights: of the float network, parameters by name.
    """
    kept = {site.value for site in sites}
    for node in list(traced.graph.nodes):
        quantizer = fakequant.quantizer_behind(traced, node)
        if quantizer is None or graph.name_of(node.args[0]) in kept:
            continue
        if quantizer.site.is_weight:
            for user in node.users:
                for source in user.args[1:3]:
                    _restore(traced, source if source is not node else node.args[0], weights)
        node.replace_all_uses_with(node.args[0])
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.meta["sites"] = tuple(site for site in fakequant.sites_of(traced) if site.value in kept)
    traced.recompile()


def told(trials: Sequence[Trial], layers: Sequence[str]) -> Iterator[str]:
    """The search in two sentences: every step of it in order, and what it came to."""
    steps = ", ".join(f"{len(trial.layers)}: {trial.accuracy.percent:.2f} %" for trial in trials)
    yield f"quantize: top-1 on {trials[0].accuracy.total} held-out images by the number of layers in float: {steps}."
    if layers:
        yield f"quantize: back in float: {', '.join(layers)}."


def _known(node: object, weights: Mapping[str, Tensor]) -> TypeGuard[fx.Node]:
    return isinstance(node, fx.Node) and node.op == "get_attr" and str(node.target) in weights


def _restore(traced: fx.GraphModule, node: object, weights: Mapping[str, Tensor]) -> None:
    if _known(node, weights):
        with torch.no_grad():
            graph.tensor_of(traced, node).copy_(weights[str(node.target)])


def _accuracy(traced: fx.GraphModule, held_out: Labelled) -> Proportion:
    right = total = 0
    for images, labels in held_out():
        right += int((models.in_rows(traced(images)).argmax(1) == labels).sum())
        total += len(labels)
    return Proportion(right, total)
