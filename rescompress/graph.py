"""A model as a graph of ATen ops in which every value bears a stable name made of module names.

The names (``layer1.0.conv1``, ``layer1.0.relu_1``, ``layer1.0.conv1.weight``) don't depend on the PyTorch release, so a
checkpoint may store them and a report may show them.
"""

import contextlib
import copy
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, export
from torch.utils.hooks import RemovableHandle

M = TypeVar("M", bound=nn.Module)
INPUT = "images"
_aten = torch.ops.aten
OPS: dict[Any, str] = {
    _aten.conv2d.default: "conv",
    _aten.linear.default: "linear",
    _aten.add.Tensor: "add",
    _aten.relu.default: "relu",
    _aten.relu_.default: "relu",
    _aten.add_.Tensor: "add",
    _aten.mul_.Tensor: "mul",
    _aten.mul.Tensor: "mul",
    _aten.sigmoid.default: "sigmoid",
    _aten.max_pool2d.default: "max_pool",
    _aten.avg_pool2d.default: "avg_pool",
    _aten.adaptive_avg_pool2d.default: "avg_pool",
    _aten.mean.dim: "avg_pool",
    _aten._native_batch_norm_legit_no_training.default: "batch_norm",
    _aten.batch_norm.default: "batch_norm",
    _aten.view.default: "reshape",
    _aten.reshape.default: "reshape",
    _aten.flatten.using_ints: "reshape",
}
"""The ops that stages may reason about; any other op keeps its ATen name and is left alone."""
_IN_PLACE: dict[Any, Any] = {
    _aten.relu_.default: _aten.relu.default,
    _aten.add_.Tensor: _aten.add.Tensor,
    _aten.mul_.Tensor: _aten.mul.Tensor,
}
_NEW = {
    *(_aten.conv2d.default, _aten.linear.default, _aten.add.Tensor, _aten.mul.Tensor, _aten.relu.default),
    *(_aten.sigmoid.default, _aten.group_norm.default, _aten.max_pool2d.default, _aten.avg_pool2d.default),
    *(_aten.adaptive_avg_pool2d.default, _aten.mean.dim, _aten.sub.Tensor, _aten.constant_pad_nd.default),
}
"""Ops that make a tensor of their own and that PyTorch keeps when it takes in-place ops away."""
_KEPT = {*_NEW, _aten.slice.Tensor, _aten.unsqueeze.default, _aten.sym_size.int, _aten.sym_size.default}


def capture(model: nn.Module, input_shape: tuple[int, int, int], *, functional: bool = True) -> fx.GraphModule:
    """Trace a model in eval mode with ``torch.export``; a captured model comes back as it is.

    Args:
        model: any module that maps ``[n, *input_shape]`` to one tensor. Its parameters are shared, not copied.
        input_shape: shape of one image, channels first; the batch stays dynamic.
        functional: turn ops that write in place into ops that don't. A graph that is only looked at may do without,
            which takes less time where PyTorch has to trace it again.
    """
    if is_captured(model):
        return cast(fx.GraphModule, model)
    # A batch of one would be specialized into the graph.
    example = torch.zeros(2, *input_shape, device=next(model.parameters()).device)
    with evaluating(model), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = export(model, (example,), dynamic_shapes=({0: Dim("n")},), strict=False)
        plain = functional and all(_is_plain(node) for node in program.graph.nodes)
        program = program.run_decompositions({}) if functional and not plain else program
        traced = cast(fx.GraphModule, program.module(check_guards=False))
    if plain:
        _take_in_place_away(traced)
    leaves = {name for name, module in model.named_modules() if not list(module.children())}
    _drop_size_nodes(traced)
    _name_values(traced.graph, leaves)
    traced.meta["captured"] = functional
    return traced


def clone(model: M) -> M:
    """A deep copy, without the warning that copying PyTorch's own tree specs in a captured graph raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(model)


def is_captured(model: nn.Module) -> bool:
    """Whether ``capture`` made this module."""
    return isinstance(model, fx.GraphModule) and bool(model.meta.get("captured"))


def name_of(node: fx.Node) -> str:
    """The stable name of the value that a node makes."""
    return str(node.meta["value_name"])


def op_of(node: fx.Node) -> str:
    """What a node does, in the vocabulary of ``OPS``; the ATen name for what is not in it."""
    if node.op != "call_function":
        return node.op
    return OPS.get(node.target) or getattr(node.target, "__name__", str(node.target)).partition(".")[0]


def inputs_of(node: fx.Node) -> list[fx.Node]:
    """The nodes whose values a node reads, parameters left out."""
    return [source for source in node.all_input_nodes if source.op != "get_attr"]


def tensor_of(traced: fx.GraphModule, node: fx.Node) -> Tensor:
    """The parameter or buffer that a ``get_attr`` node reads."""
    parent, _, name = str(node.target).rpartition(".")
    return cast(Tensor, getattr(traced.get_submodule(parent), name))


def values(traced: fx.GraphModule) -> dict[str, fx.Node]:
    """Every named value of a captured graph, parameters included, in order of execution."""
    return {name_of(node): node for node in traced.graph.nodes if "value_name" in node.meta}


def watch(
    traced: fx.GraphModule,
    images: Tensor,
    seen: Callable[[fx.Node, Any], None],
    instead: Mapping[fx.Node, Callable[[Tensor], Tensor]] = MappingProxyType({}),
) -> Any:
    """Run a captured graph, with or without fake-quants, and show each step's value as it is made.

    Values are dropped as soon as no later step reads them, so memory is that of one plain run.

    Args:
        traced: a captured graph.
        images: normalized images ``[n, 3, h, w]``.
        seen: is called with each node and its value, in order of execution.
        instead: what to run in place of some steps, on the first thing that they read.

    Returns:
        What the network gives back.
    """
    return _Watcher(traced, seen, instead).run(images)


class _Watcher(fx.Interpreter):
    def __init__(
        self,
        traced: fx.GraphModule,
        seen: Callable[[fx.Node, Any], None],
        instead: Mapping[fx.Node, Callable[[Tensor], Tensor]],
    ) -> None:
        super().__init__(traced)
        self._seen, self._instead = seen, instead

    def run_node(self, n: fx.Node) -> Any:
        run = self._instead.get(n)
        result = super().run_node(n) if run is None else run(self.env[n.all_input_nodes[0]])
        self._seen(n, result)
        return result


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model in eval mode and give every module its own mode back afterwards."""
    before = {module: module.training for module in model.modules()}
    try:
        for module in before:
            module.training = False
        yield model
    finally:
        for module, training in before.items():
            module.training = training


def run_blank(model: nn.Module, input_shape: tuple[int, int, int], hooks: Sequence[RemovableHandle]) -> None:
    """Run one image of zeros through a model in eval mode for what its hooks see, and take these away."""
    try:
        with evaluating(model), torch.no_grad():
            model(torch.zeros(1, *input_shape, device=next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()


def _is_plain(node: fx.Node) -> bool:
    """Whether ``_take_in_place_away`` makes of a node what PyTorch makes of it.

    PyTorch traces the whole program again for that, which takes longer than the capture.
    """
    if node.op != "call_function" or node.target in _KEPT:
        return True
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or node.kwargs:
        return False
    if node.target is _aten.flatten.using_ints:
        flat, contiguous = node.meta["val"], source.meta["val"].is_contiguous()
        return node.args[1:] in ((1,), (1, -1)) and contiguous and isinstance(flat.shape[1], int)
    new, alone = source.target in _NEW or source.target in _IN_PLACE, list(source.users) == [node]
    same = len({argument.meta["val"].dtype for argument in node.all_input_nodes}) == 1
    return node.target in _IN_PLACE and new and alone and same


def _take_in_place_away(traced: fx.GraphModule) -> None:
    for node in traced.graph.nodes:
        if node.target in _IN_PLACE:
            node.target = _IN_PLACE[node.target]
        elif node.target is _aten.flatten.using_ints:
            node.target = _aten.view.default
            node.args = (node.args[0], [-1, node.meta["val"].shape[1]])


def _drop_size_nodes(traced: fx.GraphModule) -> None:
    """Let a reshape say -1 where export wrote the batch size, so that the graph holds tensors only."""
    for node in list(traced.graph.nodes):
        if node.op == "call_function" and node.target in (_aten.sym_size.int, _aten.sym_size.default):
            for user in list(node.users):
                user.args = cast(Any, fx.node.map_arg(user.args, functools.partial(_flexible, node)))
    traced.graph.eliminate_dead_code()
    traced.recompile()


def _flexible(size: fx.Node, argument: fx.Node) -> fx.node.Argument:
    return -1 if argument is size else argument


def _name_values(graph: fx.Graph, leaves: set[str]) -> None:
    taken: set[str] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            name = INPUT
        elif node.op == "get_attr":
            name = str(node.target)
        elif node.op == "call_function":
            stem, count = _name_call(node, leaves), 0
            name = stem
            while name in taken:
                count += 1
                name = f"{stem}_{count}"
        else:
            continue
        taken.add(name)
        node.meta["value_name"] = name


def _name_call(node: fx.Node, leaves: set[str]) -> str:
    if op_of(node) in ("conv", "linear"):
        return str(node.args[1].target).rpartition(".")[0]  # type: ignore[union-attr]
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    if path in leaves:
        return str(path)
    return f"{path}.{op_of(node)}" if path else op_of(node)
