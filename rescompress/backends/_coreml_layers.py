"""What a saved program computes inside, operation by operation, by the names that the values have in the network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rescompress.backends import OUTPUT, ROUNDED, Images
from rescompress.backends._coreml_audit import ProgramGraph
from rescompress.backends._coreml_interpreter import Operation, Program, Value
from rescompress.backends._coreml_session import CoremlSession
from rescompress.backends._coreml_write import INPUT

Array = NDArray[np.float32]


def written(package: Path, images: Images) -> dict[str, Array]:
    """Every value that is a layer's or a step's of the network, computed by the interpreter.

    coremltools divides both sides of an INT8 add, and the scale that rounds the sum, by one of the two scales. The sum
    is left out then; its rounded self is given in the network's own scale.

    Args:
        package: the ``.mlpackage``.
        images: as the package takes them.

    Returns:
        The values by name, rounded ones under ``NAME.rounded``, and what comes out under ``output``.
    """
    program = _Open(package)
    network = ProgramGraph(package)
    session = CoremlSession(package, threads=1, program=program)
    output = session.run(images)
    values = {name: np.concatenate([part[name] for part in program.parts])[: len(images)] for name in program.parts[0]}
    divided = _divided(network, program)
    found: dict[str, Array] = {}
    for operation in network.operations:
        name = network.layer(operation)
        if operation.type == "quantize":
            found.update(_rounded(operation, network, program, values, divided))
        elif name and operation.output in values and operation.output not in divided:
            found.setdefault(name, values[operation.output])
    return {**found, OUTPUT: output}


class _Open(Program):
    """A program that keeps all that it computes from its inputs, in a part for each time that it runs."""

    def __init__(self, package: Path) -> None:
        self.parts: list[dict[str, Array]] = []
        super().__init__(package)

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Array]:
        self.parts.append({})
        return super()._run(inputs)

    def _call(self, step: Any, values: Mapping[str, Value]) -> dict[str, Value]:
        made = super()._call(step, values)
        if self.parts:
            tensors = {name: value for name, value in made.items() if isinstance(value, Tensor) and value.dim()}
            self.parts[-1].update({name: value.numpy().astype(np.float32) for name, value in tensors.items()})
        return made

    def number(self, operation: Operation, parameter: str) -> float | None:
        """A constant parameter; None where there is none, or it is none."""
        names = operation.inputs.get(parameter, ())
        value = self.constants.get(names[0]) if names else None
        return float(value) if isinstance(value, Tensor) and value.numel() == 1 else None


def _divided(network: ProgramGraph, program: _Open) -> set[str]:
    """Names of the values that lie between an add's divided sides and what rounds the sum."""
    found: set[str] = set()
    for operation in network.operations:
        sources = network.read(operation, "x", "y")
        if operation.type == "add" and [source.type for source in sources] == ["dequantize"] * 2:
            own = [(program.number(source, "scale"), _scale_of(source, network, program)) for source in sources]
            if any(written != meant for written, meant in own):
                found.add(operation.output)
        elif operation.type != "quantize" and any(source.output in found for source in sources):
            found.add(operation.output)
    return found


def _scale_of(dequantize: Operation, network: ProgramGraph, program: _Open) -> float | None:
    """The scale of the quantize that a dequantize reads, if it reads one at once."""
    sources = network.read(dequantize, "input")
    return program.number(sources[0], "scale") if sources and sources[0].type == "quantize" else None


def _rounded(
    quantize: Operation, network: ProgramGraph, program: _Open, values: Mapping[str, Array], divided: set[str]
) -> dict[str, Array]:
    """``s (q - z)`` of the value that a quantize rounds."""
    (read,) = quantize.inputs["input"]
    maker = network.makers.get(read)
    name = network.layer(maker) if maker else INPUT
    scale = program.number(quantize, "scale")
    if read in divided:
        added = {
            operand for o in network.operations if o.type == "add" for side in ("x", "y") for operand in o.inputs[side]
        }
        readers = [o for o in network.operations if o.type == "dequantize" and quantize.output in o.inputs["input"]]
        scale = next((program.number(o, "scale") for o in readers if o.output not in added), None)
    if not name or scale is None:
        return {}
    zero = program.number(quantize, "zero_point") or 0.0
    return {f"{name}{ROUNDED}": (np.float32(scale) * (values[quantize.output] - np.float32(zero))).astype(np.float32)}
