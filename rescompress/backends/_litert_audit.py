"""What a TFLite file computes in which precision, and which of its nodes LiteRT's XNNPACK delegate took."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rescompress.backends._litert_run import LitertSession
from rescompress.spec import LayerPrecision, PrecisionReport, Proportion

KINDS = {
    "CONV_2D": "conv",
    "DEPTHWISE_CONV_2D": "conv",
    "FULLY_CONNECTED": "linear",
    "ADD": "add",
    "MAX_POOL_2D": "pool",
    "AVERAGE_POOL_2D": "pool",
    "MEAN": "pool",
}
"""Operators whose precision is reported."""
WEIGHTED = ("conv", "linear")
MOVES = ("RESHAPE", "TRANSPOSE", "PAD", "PADV2")
"""Operators that only move values."""
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
DELEGATE = "DELEGATE"
SHOWN = 5
"""How many nodes a note names."""


@dataclass(frozen=True)
class Node:
    """An operator as the interpreter holds it.

    Attributes:
        code: the schema's name.
        name: of the layer whose value it makes.
        inputs: tensors that it reads.
        outputs: tensors that it makes.
        kinds: dtype of each input.
        made: dtype of its output.
    """

    code: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kinds: tuple[type, ...]
    made: type

    @property
    def in_integers(self) -> bool:
        """Whether it computes with INT8: from integers to integers, or from floats that it rounds at run time."""
        if self.code in CONVERSIONS:
            return False
        hybrid = KINDS.get(self.code) in WEIGHTED and self.kinds[1] is not np.float32
        return hybrid or (self.kinds[0] is np.int8 and self.made is np.int8)

    def __str__(self) -> str:
        return f"{self.name} ({self.code})"


def report(path: Path) -> PrecisionReport:
    """Precision of each convolution, linear layer, add and pool, as the interpreter built it."""
    with LitertSession(path, 1) as session:
        built = list(_nodes(session.interpreter))
        images = {int(details["index"]) for details in session.interpreter.get_input_details()}
    nodes = [node for node in built if node.code != DELEGATE]
    parts = [node for node in built if node.code == DELEGATE]
    computed = {tensor for node in nodes for tensor in node.outputs}
    constant = {tensor for node in nodes for tensor in node.inputs} - computed - images
    working = [node for node in nodes if not (node.code == "DEQUANTIZE" and node.inputs[0] in constant)]
    layers = [
        LayerPrecision(node.name, KINDS[node.code], "int8" if node.in_integers else "fp32")
        for node in working
        if node.code in KINDS and not (node.code == "ADD" and constant & set(node.inputs))
    ]
    counts = Counter(node.code for node in working)
    computing = [node for node in working if node.code not in MOVES]
    int8 = Proportion(sum(node.in_integers for node in computing), len(computing))
    stored = len(nodes) - len(working)
    notes = (*_delegated(nodes, parts), *_islands(computing), *_unpacked(stored))
    return PrecisionReport(tuple(layers), dict(sorted(counts.items())), int8, notes)


def _nodes(interpreter: Any) -> Iterator[Node]:
    names = {details["index"]: details["name"] for details in interpreter.get_tensor_details()}
    for op in interpreter._get_ops_details():
        inputs = tuple(int(tensor) for tensor in op["inputs"] if tensor >= 0)
        outputs = tuple(int(tensor) for tensor in op["outputs"])
        name = names.get(outputs[0], "").partition(";")[0]
        yield Node(op["op_name"], name, inputs, outputs, tuple(op["operand_types"]), op["result_types"][0])


def _delegated(nodes: list[Node], parts: list[Node]) -> Iterator[str]:
    """What XNNPACK took: of each part, the nodes between its outputs and its inputs."""
    makers = {tensor: node for node in nodes for tensor in node.outputs}
    taken: set[int] = set()
    for part in parts:
        waiting = [tensor for tensor in part.outputs if tensor not in part.inputs]
        while waiting:
            tensor = waiting.pop()
            node = makers.get(tensor)
            if node is not None and node.outputs[0] not in taken:
                taken.update(node.outputs)
                waiting += [one for one in node.inputs if one not in part.inputs]
    left = [node for node in nodes if not taken & set(node.outputs)]
    which = "all" if not left else f"{len(nodes) - len(left)} of"
    yield f"XNNPACK runs {which} {len(nodes)} nodes in {len(parts)} part{'s' * (len(parts) != 1)}."
    if left:
        yield f"LiteRT's own kernels run {_some(left)}."


def _islands(computing: list[Node]) -> Iterator[str]:
    islands = [node for node in computing if not node.in_integers and node.code not in CONVERSIONS]
    if islands and any(node.in_integers for node in computing):
        yield f"In float: {_some(islands)}."


def _unpacked(stored: int) -> Iterator[str]:
    if stored:
        yield f"{stored} weights are stored in fewer bits and computed with in FP32."


def _some(nodes: list[Node]) -> str:
    more = f" and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else ""
    return ", ".join(map(str, nodes[:SHOWN])) + more
