"""Which precision each layer has: what TensorRT's inspector says of an engine, or what is predicted from the file.

The inspector's JSON isn't specified. Read here are `Name`, `LayerType`, `Metadata`, `Weights` and `Inputs`, as NVIDIA's
page "Engine Inspector" and trt-engine-explorer show them; a type is in `Format/Datatype` in 10.x, in a field of its own
in 11 ("Migrating IEngineInspector Usage from TensorRT 10.x to 11.x").
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rescompress.backends import _tensorrt_fusion as fusion
from rescompress.spec import LayerPrecision, PrecisionReport, Proportion

KINDS = {
    "Conv": "conv",
    "Gemm": "linear",
    "MatMul": "linear",
    "Add": "add",
    "MaxPool": "pool",
    "AveragePool": "pool",
    "GlobalAveragePool": "pool",
}
"""Ops of the exported graph whose precision is reported."""
TYPES = {
    "int8": r"int8",
    "bf16": r"bf16|bfloat16",
    "fp16": r"fp16|half|float16",
    "fp8": r"fp8",
    "fp32": r"fp32|float",
    "int32": r"int32",
}
"""How the inspector says a type, in the order in which they are looked for: ``bfloat16`` holds ``float``."""
WIDTHS = ("fp32", "bf16", "fp16", "fp8", "int8")
"""Where a layer reads several types, it computes in the first of these."""
MOVES = ("Reformat", "NoOp", "Shuffle", "Constant", "Slice", "Signal", "Wait")
"""Layers of an engine that only move or hold values."""
MANY = 3
"""So many names are written out; more are counted."""


@dataclass(frozen=True)
class Kernel:
    """One layer of an engine: what it is, its precision, and the nodes of the file that it was made of."""

    name: str
    kind: str
    precision: str
    nodes: frozenset[str]

    @property
    def moves(self) -> bool:
        """Whether it only moves or holds values."""
        return self.kind in MOVES


def read(text: str, proto: Any) -> PrecisionReport:
    """The report of an engine.

    Args:
        text: JSON of all layers, as the inspector writes it.
        proto: the ``onnx.ModelProto`` that the engine was built from.
    """
    graph, built = proto.graph, kernels(text, proto)
    layers = tuple(LayerPrecision(name, kind, _precision_of(name, built)) for name, kind in kinds_of(graph).items())
    working = [kernel for kernel in built if not kernel.moves]
    counts = Counter(f"{kernel.kind} {kernel.precision}" for kernel in built)
    int8 = sum(kernel.precision == "int8" for kernel in working)
    notes = (*_fusions(graph, built), *_islands(graph, built))
    return PrecisionReport(layers, dict(sorted(counts.items())), Proportion(int8, len(working)), notes)


def predicted(proto: Any, hindrance: str) -> PrecisionReport:
    """What the engine will be, by the rules of fusion; the notes say that nothing was built.

    Args:
        proto: the ``onnx.ModelProto``.
        hindrance: why there is no engine.
    """
    report = fusion.predict(proto).report()
    return replace(report, notes=(f"Predicted from the file, not read off an engine: {hindrance}", *report.notes))


def kernels(text: str, proto: Any) -> list[Kernel]:
    """The layers of an engine.

    Args:
        text: JSON of all layers, as the inspector writes it.
        proto: the ``onnx.ModelProto`` that the engine was built from.
    """
    known = {node.name for node in proto.graph.node}
    return [kernel(layer, known) for layer in json.loads(text)["Layers"]]


def kernel(layer: Mapping[str, Any] | str, known: set[str]) -> Kernel:
    """One layer of an engine.

    Args:
        layer: an entry of ``Layers``; a bare name where the engine was built without details.
        known: names of the file's nodes.
    """
    if isinstance(layer, str):
        return Kernel(layer, "Layer", "unknown", _nodes(layer, "", known))
    kind = str(layer.get("LayerType") or "Layer")
    name = str(layer.get("Name", ""))
    nodes = _nodes(name, str(layer.get("Metadata") or ""), known)
    return Kernel(name, kind, _precision(layer), nodes)


def _nodes(name: str, metadata: str, known: set[str]) -> frozenset[str]:
    """The ONNX nodes that a layer was made of: named in its metadata, else in its own name."""
    told = set(re.findall(r"\[ONNX Layer: (.*?)\]", metadata))
    if not told & known:
        told = {part.strip() for part in re.split(r" \+ | \|\| |PWN\(|\)|,|\{ForeignNode\[|\.\.\.|\]\}", name)}
    return frozenset(told & known)


def _precision(layer: Mapping[str, Any]) -> str:
    """What a layer computes in: its weights' type where it has any, else the widest type that it reads."""
    reads = [found for found in map(_type, layer.get("Inputs") or ()) if found in WIDTHS]
    weights = layer.get("Weights")
    if isinstance(weights, Mapping) and (found := _named(str(weights.get("Type", "")))) in WIDTHS:
        reads = [found, *reads[:1]]
    return min(reads, key=WIDTHS.index, default="unknown")


def _type(tensor: Any) -> str:
    """The type of an input or output: ``int8``, ``fp16`` and so on."""
    if not isinstance(tensor, Mapping):
        return "unknown"
    fields = ("Datatype", "DataType", "Format/Datatype", "Format/DataType", "Format")
    found = (_named(str(tensor[field])) for field in fields if tensor.get(field))
    return next((name for name in found if name != "unknown"), "unknown")


def _named(text: str) -> str:
    return next((name for name, words in TYPES.items() if re.search(words, text, re.IGNORECASE)), "unknown")


def kinds_of(graph: Any) -> dict[str, str]:
    """``conv``, ``linear``, ``add`` or ``pool`` of each node of the file that is a layer; adding a bias is none."""
    constants = {tensor.name for tensor in graph.initializer}
    return {
        node.name: KINDS[node.op_type]
        for node in graph.node
        if node.op_type in KINDS and not (node.op_type == "Add" and constants & set(node.input))
    }


def _precision_of(name: str, kernels: Iterable[Kernel]) -> str:
    return next((kernel.precision for kernel in kernels if name in kernel.nodes and not kernel.moves), "unknown")


def _fusions(graph: Any, kernels: list[Kernel]) -> list[str]:
    """How many adds and ReLUs run inside a convolution's kernel, and which don't."""
    ops = {node.name: node.op_type for node in graph.node}
    convolving = [kernel for kernel in kernels if any(ops[name] in ("Conv", "Gemm") for name in kernel.nodes)]
    inside = {name for kernel in convolving for name in kernel.nodes}
    notes = []
    adds = {name for name, kind in kinds_of(graph).items() if kind == "add"}
    for what, names in (("residual adds", adds), ("ReLUs", {name for name, op in ops.items() if op == "Relu"})):
        if names:
            apart = _listed(sorted(names - inside))
            missed = f"; apart from it: {apart}" if apart else ""
            notes.append(f"{len(names & inside)} of {len(names)} {what} run inside a convolution's kernel{missed}.")
    return notes


def _islands(graph: Any, kernels: list[Kernel]) -> list[str]:
    """Copies that only change a format, Q/DQ that run by themselves, and layers that nothing is known of."""
    ops = {node.name: node.op_type for node in graph.node}
    pairs = ("QuantizeLinear", "DequantizeLinear")
    stray = [kernel.name for kernel in kernels if kernel.nodes and all(ops[name] in pairs for name in kernel.nodes)]
    copies = sum(kernel.kind == "Reformat" for kernel in kernels)
    unknown = [kernel.name for kernel in kernels if kernel.precision == "unknown" and not kernel.moves]
    notes = [f"{copies} layers only copy a tensor into another format."] if copies else []
    notes += [f"{len(stray)} Q/DQ run by themselves: {_listed(stray)}."] if stray else []
    notes += [f"TensorRT doesn't say the precision of {_listed(unknown)}."] if unknown else []
    return notes


def _listed(names: list[str]) -> str:
    """Some names, and how many more."""
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return ", ".join(names[:MANY]) + more
