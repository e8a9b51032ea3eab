"""What ONNX Runtime's profiler says of each kernel, and which nodes of the file the kernel was made of."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from rescompress.backends import _onnxruntime_audit as audit
from rescompress.backends._layer_times import WARM_UP, WEIGHTED, Kernel, booked
from rescompress.timing import LayerTime

KERNEL, RUN = "_kernel_time", "model_run"
CONVERSIONS = (*audit.MOVES, *audit.ROUNDS)
WEIGHS = (
    *("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"),
    *audit.INT8_OPS["conv"],
    *audit.INT8_OPS["linear"],
)
"""Ops of the optimized graph that compute a convolution or a linear layer."""


def read(text: str, exported: Any, built: Any, queries: int) -> tuple[tuple[LayerTime, ...], float]:
    """Layers with the medians of their kernels' times, and the median of whole queries, in ms.

    Args:
        text: JSON that ONNX Runtime's profiler wrote.
        exported: the ``onnx.GraphProto`` of the file.
        built: the graph that ONNX Runtime optimized.
        queries: the last so many count; those before were the warm-up. Where the file's batch is fixed, a query may
            take several runs.
    """
    times: dict[tuple[str, str], list[int]] = {}
    ops: dict[tuple[str, str], str] = {}
    whole: list[int] = []
    for event in json.loads(text):
        if event["name"] == RUN:
            whole.append(event["dur"])
        elif event["name"].endswith(KERNEL):
            key = event["name"].removesuffix(KERNEL), event["args"]["node_index"]
            times.setdefault(key, []).append(event["dur"])
            ops[key] = event["args"]["op_name"]
    made_of, each = _nodes(exported, built), len(whole) // (WARM_UP + queries)
    kernels = [
        Kernel(name, ops[name, index], _median_ms(found, queries, each), made_of.get(name, ()))
        for (name, index), found in times.items()
    ]
    return booked(kernels, audit.kinds_of(exported)), _median_ms(whole, queries, each)


def _median_ms(microseconds: list[int], queries: int, each: int) -> float:
    """Of the last queries, of so many runs each."""
    return float(np.median(np.reshape(microseconds[-queries * each :], (queries, each)).sum(1))) / 1e3


def _nodes(exported: Any, built: Any) -> dict[str, tuple[str, ...]]:
    """The file's nodes of each kernel, by the kernel's name.

    A kernel bears the name of one of the nodes that it was made of, or its output does. A layer with weights that no
    kernel bears the name of is in the kernel of its activation; any other such node is in that which made its input
    last.
    """
    maker = {value: node.name for node in exported.node for value in node.output}
    sources = {node.name: [maker[value] for value in node.input if value in maker] for node in exported.node}
    order = {kernel.name: place for place, kernel in enumerate(built.node)}
    weighted = {name for name, kind in audit.kinds_of(exported).items() if kind in WEIGHTED}
    inside: dict[str, str] = {}
    for kernel in built.node:
        stems = map(audit.stem, (kernel.name, *kernel.output))
        name = next((stem for stem in stems if stem in sources), None)
        if name is not None and kernel.op_type not in CONVERSIONS:
            behind = _behind(name, weighted, sources, inside) if kernel.op_type in WEIGHS else []
            inside.update(dict.fromkeys([name, *behind], kernel.name))
    for name, before in sources.items():
        kernels = [inside[source] for source in before if source in inside]
        if kernels and name not in inside:
            inside[name] = max(kernels, key=order.__getitem__)
    return {kernel: tuple(name for name in sources if inside.get(name) == kernel) for kernel in order}


def _behind(name: str, weighted: set[str], sources: Mapping[str, list[str]], inside: Mapping[str, str]) -> list[str]:
    """The way from a node whose name a kernel bears back to the layer with weights that the kernel computes."""
    way = [name]
    while way[-1] not in weighted:
        further = [source for source in sources[way[-1]] if source not in inside]
        if not further:
            return []
        way.append(further[0])
    return way[1:]
