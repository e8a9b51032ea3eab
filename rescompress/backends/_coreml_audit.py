"""The precision that a saved program asks for, operation by operation."""

import json
import math
import platform
from collections import Counter
from pathlib import Path
from typing import Any

from rescompress.backends._coreml_interpreter import Operation, Program
from rescompress.backends._coreml_interpreter_file import Kind, kind_of, read_spec
from rescompress.backends._coreml_write import LAYERS
from rescompress.spec import LayerPrecision, PrecisionReport, Proportion

KINDS = {
    "conv": "conv",
    "linear": "linear",
    "matmul": "linear",
    "add": "add",
    "max_pool": "pool",
    "avg_pool": "pool",
    "reduce_mean": "pool",
}
"""Operations whose precision is reported."""
NO_WORK = (
    *("const", "cast", "quantize", "dequantize", "classify"),
    *("reshape", "transpose", "expand_dims", "squeeze", "slice_by_index", "concat", "split"),
)
"""Operations that only hold or move values, or change their type, beside those that unfold stored weights."""
BYTES = ("int8", "uint8")
ASKED = "This is what the program asks for; Core ML decides on the device what computes it."


class ProgramGraph:
    """A program's operations, found by what they make and by the layer that they are."""

    def __init__(self, package: Path) -> None:
        self.operations = Program(package).operations
        spec = read_spec(package)[0]
        self.names: dict[str, str] = json.loads(spec.description.metadata.userDefined.get(LAYERS, "{}"))
        self.stored = _stored(spec)
        self.makers = {name: operation for operation in self.operations for name in operation.outputs}
        self.working = [o for o in self.operations if o.type not in NO_WORK and not o.type.startswith("constexpr_")]

    def layer(self, operation: Operation) -> str | None:
        """The name in the network of the step that an operation came from."""
        for name in (operation.output, operation.name):
            stem = name.removesuffix("_cast_fp16")
            found = self.names.get(stem) or self.names.get(stem.removesuffix("_0"))
            if found:
                return found
        return None

    def read(self, operation: Operation, *parameters: str) -> list[Operation]:
        """What makes the values of an operation's parameters; its inputs are made by nothing."""
        names = [name for parameter in parameters for name in operation.inputs.get(parameter, ())]
        return [self.makers[name] for name in names if name in self.makers]

    def stored_as(self, operation: Operation) -> str:
        """What an operation's weight is stored as; empty where it is stored in float."""
        names = operation.inputs.get("weight", ())
        return self.stored.get(names[0], "") if names else ""

    def takes_integers(self, operation: Operation) -> bool:
        """Whether all that an operation reads, constants left out, was integers just before."""
        sources = [o for o in self.read(operation, "x", "y") if o.type != "const"]
        integers = [o.type == "dequantize" and self.read(o, "input")[0].dtype in BYTES for o in sources]
        return bool(integers) and all(integers)

    def is_int8(self, operation: Operation) -> bool:
        """Whether integers go in, and weights, if it has some, are integers of 8 bits; a ReLU is part of its layer."""
        if operation.type == "relu" and self.read(operation, "x"):
            (source,) = self.read(operation, "x")
            return self.takes_integers(operation) or (source.type in KINDS and self.is_int8(source))
        stored = not operation.inputs.get("weight") or self.stored_as(operation) in BYTES
        return stored and self.takes_integers(operation)

    def precision(self, operation: Operation) -> str:
        """What an operation computes in."""
        return "int8" if self.is_int8(operation) else operation.dtype


def report(package: Path) -> PrecisionReport:
    """Precision of each convolution, linear layer, add and pool of a saved program."""
    graph = ProgramGraph(package)
    layers = []
    for operation in graph.working:
        kind, name = KINDS.get(operation.type), graph.layer(operation)
        adds_constant = kind == "add" and any(o.type == "const" for o in graph.read(operation, "x", "y"))
        if kind in ("conv", "linear") or (kind and name and not adds_constant):
            layers.append(LayerPrecision(name or operation.name, kind, graph.precision(operation)))
    counts = Counter(f"{operation.type} {graph.precision(operation)}" for operation in graph.working)
    integers = sum(map(graph.is_int8, graph.working))
    notes = (*_stored_small(graph), ASKED, *_planned(package))
    return PrecisionReport(tuple(layers), dict(sorted(counts.items())), Proportion(integers, len(graph.working)), notes)


def _stored(spec: Any) -> dict[str, str]:
    """What each stored weight that is unfolded is stored as, by the name of the unfolded value."""
    (function,) = spec.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    found = {}
    for message in block.operations:
        if not message.type.startswith("constexpr_"):
            continue
        kinds = {key: kind_of(value.type, key) for key, value in message.attributes.items()}
        for key, argument in message.inputs.items():
            if argument.arguments[0].WhichOneof("binding") == "value":
                kinds[key] = kind_of(argument.arguments[0].value.type, key)
        if "lut" in kinds:
            found[message.outputs[0].name] = f"a palette of {_size(kinds['lut'])}"
        else:
            found[message.outputs[0].name] = kinds["quantized_data" if "quantized_data" in kinds else "data"].dtype
    return found


def _size(kind: Kind) -> int:
    return math.prod(size or 1 for size in kind.shape)


def _stored_small(graph: ProgramGraph) -> tuple[str, ...]:
    """A sentence for each way in which weights are stored smaller than they are computed with."""
    floats = [operation for operation in graph.working if KINDS.get(operation.type) and not graph.is_int8(operation)]
    counts = Counter((graph.stored_as(o), o.dtype) for o in floats if graph.stored_as(o))
    return tuple(
        f"{count} layers have weights stored as {stored} and compute in {dtype}."
        for (stored, dtype), count in sorted(counts.items())
    )


def _planned(package: Path) -> tuple[str, ...]:
    if platform.system() != "Darwin":
        return ()
    from rescompress.backends._coreml_predict import units

    return (units(package),)
