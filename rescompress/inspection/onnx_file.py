"""An ONNX graph, read in a process of its own, as the steps and the cost that an inspection reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from rescompress.errors import InputRefused
from rescompress.inspection.network import Network
from rescompress.inspection.onnx_steps import Builder, Node
from rescompress.spec import Cost
from rescompress.statedict import sandbox
from rescompress.statedict.onnx_graph import GRAPH


@dataclass(frozen=True)
class Graph:
    """What the process that read the file says of it: values and constants go by number."""

    name: str
    image: int
    shape: tuple[int | None, ...] | None
    outputs: tuple[int, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Found:
    """A file's network, what to call it, what it costs, and its constants by name."""

    network: Network
    name: str
    total: Cost
    tensors: Mapping[str, Tensor]


def read(path: Path) -> Found:
    """The network in a file.

    Raises:
        InputRefused: the file is missing or corrupt, keeps weights elsewhere, or leaves the size of its images open.
        ResourceExhausted: reading it took more memory or time than a file of its size is worth.
        BackendMissing: the package onnx is not installed.
    """
    if not path.is_file():
        raise InputRefused(f"There is no file {path}.", "Check the path.")
    tensors = sandbox.read("onnx", path)
    try:
        graph = TypeAdapter(Graph).validate_json(tensors.pop(GRAPH).numpy().tobytes())
    except (KeyError, ValidationError):
        raise InputRefused(f"{path} was not understood by the process that read it.", "Export it again.") from None
    builder = Builder(path, {int(number): tensor for number, tensor in tensors.items()})
    builder.begin(graph.image, graph.shape)
    for node in graph.nodes:
        builder.step(node)
    network = Network(tuple(builder.ops.values()), builder.names(graph.outputs))
    readers = {number: node.name for node in reversed(graph.nodes) for number in node.inputs}
    named = {f"{readers.get(int(number), 'constant')}.{number}": tensor for number, tensor in tensors.items()}
    return Found(network, graph.name or path.stem, _total(network, builder.added), named)


def _total(network: Network, added: int) -> Cost:
    """Totals of layers and BatchNorms, and of so many biases that steps of their own add."""
    layers = [op.cost for op in network.layers if op.cost]
    norms = [op.norm for op in network.ops if op.norm is not None]
    scales = added + sum(norm.mean.numel() for norm in norms) * 2
    statistics = sum(norm.mean.numel() for norm in norms) * 2
    return Cost(
        params=sum(row.params for row in layers) + scales,
        macs=sum(row.macs for row in layers),
        weight_bytes=sum(row.weight_bytes for row in layers) + 4 * (scales + statistics),
    )
