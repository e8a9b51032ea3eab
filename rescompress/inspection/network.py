"""A network as a list of steps with their weights, whatever file or framework it comes from."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, fx

from rescompress import cost, fakequant, graph
from rescompress.spec import LayerCost

HANDED_ON = ("getitem", "clone", "detach", "alias", "contiguous", "dropout")
"""Steps that give back their input, or one of the values that it is made of."""
LAYERS = ("conv", "linear")


@dataclass(frozen=True, eq=False)
class Norm:
    """What a BatchNorm computes: ``γ (x - μ) / sqrt(σ² + ε) + β``, a value a channel; None stands for 1 or 0."""

    weight: Float[Tensor, " c"] | None
    bias: Float[Tensor, " c"] | None
    mean: Float[Tensor, " c"]
    var: Float[Tensor, " c"]
    eps: float

    @property
    def factor(self) -> Float[Tensor, " c"]:
        """What it multiplies a channel by, ``γ / sqrt(σ² + ε)``, in double precision."""
        slope = (self.var.double() + self.eps).rsqrt()
        return slope if self.weight is None else slope * self.weight.double()


@dataclass(frozen=True, eq=False)
class Op:
    """One step.

    Attributes:
        name: of the value that it makes, unique in the network.
        kind: in the vocabulary of ``graph.OPS``, or any other word.
        inputs: names of the steps whose values it reads; weights are none.
        shape: of its value, for one image.
        owner: the module whose tensors it reads.
        cost: of a layer; None for the others.
        weight: of a layer, ``[o, i, ...]``.
        step: by which a convolution shrinks height and width.
        groups: of a convolution.
        norm: of a BatchNorm.
        int8: whether its value becomes INT8 right behind it.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    owner: str = ""
    cost: LayerCost | None = None
    weight: Float[Tensor, "o ..."] | None = None
    step: int = 1
    groups: int = 1
    norm: Norm | None = None
    int8: bool = False

    @property
    def learned(self) -> bool:
        """Whether its weight was trained, and doesn't just pick channels."""
        return self.cost is not None and self.cost.params > 0

    @property
    def kernel(self) -> tuple[int, ...]:
        """Height and width of a convolution's filters; empty for any other step."""
        return tuple(self.weight.shape[2:]) if self.weight is not None else ()


@dataclass(frozen=True, eq=False)
class Network:
    """Steps in order of execution, and the names of those whose values are given back."""

    ops: tuple[Op, ...]
    outputs: tuple[str, ...]

    @functools.cached_property
    def named(self) -> dict[str, Op]:
        """Each step by its name."""
        return {op.name: op for op in self.ops}

    @functools.cached_property
    def readers(self) -> dict[str, tuple[Op, ...]]:
        """The steps that read each step's value."""
        found: dict[str, list[Op]] = {op.name: [] for op in self.ops}
        for op in self.ops:
            for source in dict.fromkeys(op.inputs):
                found[source].append(op)
        return {name: tuple(ops) for name, ops in found.items()}

    @property
    def layers(self) -> Iterator[Op]:
        """The convolutions and linear layers."""
        return (op for op in self.ops if op.cost is not None)

    @property
    def adds(self) -> Iterator[Op]:
        """The steps that add two values, each of which depends on the image."""
        return (op for op in self.ops if op.kind == "add" and len(op.inputs) == 2)

    def only_reader(self, op: Op, kind: str) -> Op | None:
        """The step of this kind that alone reads a step's value."""
        readers = self.readers[op.name]
        return readers[0] if len(readers) == 1 and readers[0].kind == kind and op.name not in self.outputs else None

    def norm_behind(self, op: Op) -> Norm | None:
        """The BatchNorm that folds into a convolution."""
        behind = self.only_reader(op, "batch_norm") if op.kind == "conv" else None
        return behind.norm if behind else None

    def filters(self, op: Op) -> Float[Tensor, "o k"]:
        """A layer's weights as they are quantized: a row an output channel, the BatchNorm behind it folded in."""
        assert op.weight is not None
        rows, norm = op.weight.detach().double().flatten(1), self.norm_behind(op)
        return rows if norm is None else rows * norm.factor.unsqueeze(1)


def read(traced: fx.GraphModule) -> Network:
    """The steps of a captured graph; its fake-quants become a mark on the value before them."""
    costs = {row.layer: row for row in cost.costs_of(traced)}
    named: dict[fx.Node, str] = {}
    ops: dict[str, Op] = {}
    outputs: tuple[str, ...] = ()
    for node in traced.graph.nodes:
        inputs = tuple(named[source] for source in node.all_input_nodes if source in named)
        if node.op == "output":
            outputs = inputs
        elif fakequant.quantizer_behind(traced, node) is not None:
            for name in inputs:
                ops[name] = replace(ops[name], int8=True)
            named.update(dict.fromkeys([node], inputs[0]) if inputs else {})
        elif graph.op_of(node) in HANDED_ON and inputs:
            named[node] = inputs[0]
        elif "value_name" in node.meta and node.op != "get_attr":
            op = _op(traced, node, inputs, costs)
            named[node], ops[op.name] = op.name, op
    return Network(tuple(ops.values()), outputs)


def step_of(node: fx.Node) -> str:
    """Name of the step whose value a node hands on, or makes."""
    while graph.op_of(node) in HANDED_ON and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return graph.name_of(node)


def _op(traced: fx.GraphModule, node: fx.Node, inputs: tuple[str, ...], costs: dict[str, LayerCost]) -> Op:
    value = node.meta["val"]
    shape = tuple(int(size) for size in (value if isinstance(value, Tensor) else value[0]).shape[1:])
    op = Op(graph.name_of(node), "input" if node.op == "placeholder" else graph.op_of(node), inputs, shape)
    if op.kind in LAYERS:
        weight = _constant(traced, node.args[1])
        assert weight is not None
        conv = op.kind == "conv"
        op = replace(
            op,
            owner=_owner(traced, node.args[1]),
            cost=costs[op.name],
            weight=weight,
            step=max(_numbers(node, 3)) if conv else 1,
            groups=_numbers(node, 6)[0] if conv else 1,
        )
    elif op.kind == "batch_norm":
        weight, bias, mean, var = (_constant(traced, argument) for argument in node.args[1:5])
        assert mean is not None
        assert var is not None
        op = replace(op, owner=_owner(traced, node.args[3]), norm=Norm(weight, bias, mean, var, _eps(node)))
    return op


def _eps(node: fx.Node) -> float:
    """A BatchNorm's last number; the op that can train has a switch behind it."""
    return [argument for argument in node.args if isinstance(argument, float)][-1]


def _numbers(node: fx.Node, place: int) -> list[int]:
    """A convolution's argument: strides at 3, groups at 6; 1 where it was left out."""
    value = cast(int | list[int], node.args[place]) if len(node.args) > place else 1
    return [value] if isinstance(value, int) else list(value)


def _source(traced: fx.GraphModule, node: object) -> fx.Node | None:
    """The node that reads the parameter or buffer, in front of its fake-quant."""
    behind = fakequant.quantizer_behind(traced, node)
    source = cast(fx.Node, node).args[0] if behind else node
    return source if isinstance(source, fx.Node) and source.op == "get_attr" else None


def _constant(traced: fx.GraphModule, node: object) -> Tensor | None:
    source = _source(traced, node)
    return None if source is None else graph.tensor_of(traced, source).detach().to(torch.float32).cpu()


def _owner(traced: fx.GraphModule, node: object) -> str:
    source = _source(traced, node)
    return "" if source is None else str(source.target).rpartition(".")[0]
