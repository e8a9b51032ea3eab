"""An interpreter of Core ML programs: runs a saved ``.mlpackage`` off macOS, where ``predict`` does not exist.

It reads what was written, and nothing else: the specification and the weights of the package (rung L2). Floats are
computed in FP32; in an FP16 program each operation's output is rounded to FP16 before the next one reads it, so sums
are accumulated in FP32 and stored in FP16. What Core ML's engines do in between (the Neural Engine accumulates as it
likes, fused layers round once) is not imitated. ``constexpr_*`` operations run once, when the program is loaded.
Operations, parameters and types that are not known here are refused by name.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rescompress.backends import _coreml_interpreter_ops as computing
from rescompress.backends import _coreml_interpreter_quant as integers
from rescompress.backends import _coreml_interpreter_shapes as shapes
from rescompress.backends._coreml_interpreter_file import Constant, Constants, Kind, kind_of, read_spec
from rescompress.backends._coreml_interpreter_ports import Port, port_of
from rescompress.errors import InputRefused

OPS: dict[str, Callable[..., Any]] = {**computing.OPS, **shapes.OPS, **integers.OPS}
CHANGING = {"cast", "quantize", "dequantize", "classify", "shape"}
"""Operations whose output may be of another type than their input ``x``."""
REMEDY = "Export the model again, or run it on macOS."
Value = Constant | tuple[Tensor, ...]


@dataclass(frozen=True)
class Operation:
    """One step of the program as it was written.

    Attributes:
        type: such as ``conv``.
        name: that the converter gave it.
        inputs: names of the values of each parameter; empty where the value stands in the step itself.
        output: name of the value that it makes, the first where there are several.
        dtype: of that value: ``fp32``, ``fp16``, ``int8``, ...
        outputs: names of all values that it makes.
    """

    type: str
    name: str
    inputs: Mapping[str, tuple[str, ...]]
    output: str
    dtype: str
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class _Step:
    """An operation that can run: its function, its bound constants, and the values that nobody reads afterwards."""

    operation: Operation
    function: Callable[..., Any]
    literals: Mapping[str, Constant]
    kinds: tuple[Kind, ...]
    spent: list[str] = field(default_factory=list)


class Program:
    """A saved package, loaded once and run as often as wanted.

    Args:
        path: the ``.mlpackage``.

    Attributes:
        inputs: what it takes.
        outputs: what ``run`` gives back; a classifier's own answer, the likeliest label, is left out.
        operations: all of them in order, constants included.
        constants: values that never change, those of ``const`` and of ``constexpr_*`` operations; FP16 as float32.
        labels: of a classifier, in order; else empty.

    Raises:
        InputRefused: the package is damaged, or holds something that the interpreter doesn't know.
    """

    def __init__(self, path: Path) -> None:
        spec, file = read_spec(path)
        function, block = _main(spec, file)
        self._decoder = Constants(file)
        self._kinds = {port.name: kind_of(port.type, f"The input {port.name}") for port in function.inputs}
        given = set(self._kinds)
        self.constants: dict[str, Constant] = {}
        self._steps: list[_Step] = []
        self.operations: Sequence[Operation] = tuple(self._load(message) for message in block.operations)
        self.labels = self._labels()
        self.inputs: tuple[Port, ...] = tuple(port_of(feature, self._kinds) for feature in spec.description.input)
        self.outputs: tuple[Port, ...] = tuple(
            port_of(feature, self._kinds, self.labels)
            for feature in spec.description.output
            if feature.type.WhichOneof("Type") not in ("stringType", "int64Type")
        )
        results = {port.name for port in self.outputs}
        if {port.name for port in self.inputs} != given or not results or not results <= set(block.outputs):
            raise InputRefused(f"The inputs and outputs that {file} describes are not its program's.", REMEDY)
        self._find_spent()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """All outputs for these inputs.

        Args:
            inputs: by name; arrays as the program states them (float32, ``[n, 3, h, w]``), images as uint8 pixels
                ``[n, h, w, 3]`` in RGB. Core ML takes one image at a time, and so does the program: several are shown
                one after the other.

        Returns:
            float32, by name; probabilities are ``[n, labels]``.

        Raises:
            InputRefused: an input is missing, unknown or of another shape or type; or an operation can't compute.
        """
        if set(inputs) != {port.name for port in self.inputs}:
            wanted = ", ".join(port.name for port in self.inputs)
            raise InputRefused(f"The program takes {wanted}, not {', '.join(inputs) or 'nothing'}.", "Rename them.")
        for port in self.inputs:
            port.check(inputs[port.name])
        counts = {len(inputs[port.name]) for port in self.inputs if port.form == "image"}
        if not counts:
            return self._run({name: np.asarray(array) for name, array in inputs.items()})
        if len(counts) > 1 or counts == {0}:
            raise InputRefused(
                f"The program was given {sorted(counts)} images.", "Give each input as many, at least 1."
            )
        images = {port.name for port in self.inputs if port.form == "image"}
        turns = [
            self._run({name: array[turn : turn + 1] if name in images else array for name, array in inputs.items()})
            for turn in range(counts.pop())
        ]
        return {port.name: np.concatenate([turn[port.name] for turn in turns]) for port in self.outputs}

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        values: dict[str, Value] = {}
        with torch.inference_mode():
            for port in self.inputs:
                kind = self._kinds[port.name]
                values[port.name] = _store(port.enter(inputs[port.name]), kind, port.name)
            for step in self._steps:
                values.update(self._call(step, values))
                for name in step.spent:
                    values.pop(name, None)
        answers = {}
        for port in self.outputs:
            answer = values.get(port.name, self.constants.get(port.name))
            if not isinstance(answer, Tensor):
                raise InputRefused(f"The program computes no output {port.name}.", REMEDY)
            answers[port.name] = answer.float().numpy().copy()  # it may be an input or a constant
        return answers

    def _load(self, message: Any) -> Operation:
        """Note an operation; run it at once where it only reads constants by its nature."""
        where = f"{message.type} {message.outputs[0].name if message.outputs else ''}".strip()
        kinds = {output.name: kind_of(output.type, f"The output of {where}") for output in message.outputs}
        if message.blocks or not kinds:
            raise InputRefused(f"{where} has blocks of its own or no output.", REMEDY)
        literals = {key: self._decoder.value(value, where) for key, value in message.attributes.items()}
        name = literals.pop("name", next(iter(kinds)))
        inputs = {key: self._bound(key, argument, literals, where) for key, argument in message.inputs.items()}
        first = next(iter(kinds))
        operation = Operation(message.type, str(name), inputs, first, kinds[first].dtype, tuple(kinds))
        if not kinds.keys().isdisjoint(self._kinds):
            raise InputRefused(f"{where} makes a value that there is already.", REMEDY)
        self._kinds.update(kinds)
        if message.type == "const":
            stated = kind_of(message.attributes["val"].type, where) if "val" in message.attributes else None
            if set(literals) != {"val"} or inputs or stated != kinds[first]:
                raise InputRefused(f"{where} is not made of one value.", REMEDY)
            self.constants[first] = literals["val"]
            return operation
        step = _Step(operation, _function(operation, literals), literals, tuple(kinds.values()))
        self._check_floats(step)
        if message.type.startswith("constexpr_"):
            with torch.inference_mode():
                self.constants.update(self._call(step, {}))  # type: ignore[arg-type]  # its outputs are no tuples
        else:
            self._steps.append(step)
        return operation

    def _bound(self, key: str, argument: Any, literals: dict[str, Constant], where: str) -> tuple[str, ...]:
        """Names of the values that a parameter reads; a value that stands there itself joins the literals."""
        bindings = [(binding.WhichOneof("binding"), binding) for binding in argument.arguments]
        if [form for form, _ in bindings] == ["value"]:
            literals[key] = self._decoder.value(bindings[0][1].value, where)
            return ()
        names = tuple(str(binding.name) for _, binding in bindings)
        unknown = [name for name in names if name not in self._kinds]
        if unknown or not names or any(form != "name" for form, _ in bindings):
            raise InputRefused(f"{where} reads {', '.join(unknown) or key}, which nothing has made before.", REMEDY)
        return names

    def _check_floats(self, step: _Step) -> None:
        """An output is of the float type of its ``x``, as the specification wants: else it would be rounded wrongly."""
        source = step.operation.inputs.get("x", ())
        given = self._kinds[source[0]].dtype if source else step.operation.dtype
        if given != step.operation.dtype and step.operation.type not in CHANGING:
            operation = step.operation
            raise InputRefused(f"{operation.type} {operation.output} turns {given} into {operation.dtype}.", REMEDY)

    def _call(self, step: _Step, values: Mapping[str, Value]) -> dict[str, Value]:
        """Run one operation and store its outputs in the types that the program states."""
        operation, arguments = step.operation, dict[str, Any](step.literals)
        for key, names in operation.inputs.items():
            if names:
                found = [values[name] if name in values else self.constants.get(name) for name in names]
                arguments[key] = found[0] if len(found) == 1 else tuple(found)
        where = f"{operation.type} {operation.output}"
        if any(argument is None for argument in arguments.values()):
            raise InputRefused(f"{where} reads a value that is no constant.", REMEDY)
        try:
            made = step.function(**arguments)
        except (ValueError, RuntimeError, IndexError, TypeError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise InputRefused(f"The interpreter doesn't know {where} with this: {reason}.", REMEDY) from error
        outputs = made if isinstance(made, tuple) else (made,)
        if len(outputs) != len(operation.outputs):
            raise InputRefused(f"{where} makes {len(outputs)} values, not {len(operation.outputs)}.", REMEDY)
        rows = zip(operation.outputs, outputs, step.kinds, strict=True)
        return {name: _store(output, kind, where) for name, output, kind in rows}

    def _labels(self) -> tuple[str, ...]:
        for step in self._steps:
            if step.operation.type == "classify":
                names = step.operation.inputs.get("classes", ())
                classes = self.constants.get(names[0]) if names else step.literals["classes"]
                if isinstance(classes, tuple):
                    return classes
                raise InputRefused("The classifier's classes are no list.", REMEDY)
        return ()

    def _find_spent(self) -> None:
        """Note with each step the values that it is the last to read, so that they needn't be kept."""
        kept = {port.name for port in self.outputs}
        seen: set[str] = set()
        for step in reversed(self._steps):
            names = {name for bound in step.operation.inputs.values() for name in bound} | set(step.operation.outputs)
            step.spent.extend(names - seen - kept)
            seen |= names


def _main(spec: Any, file: Path) -> tuple[Any, Any]:
    """The only function of a specification, and its only block."""
    if spec.WhichOneof("Type") != "mlProgram":
        raise InputRefused(f"{file} holds no ML program, but {spec.WhichOneof('Type')}.", REMEDY)
    functions = list(spec.mlProgram.functions.values())
    if len(functions) != 1 or len(functions[0].block_specializations) != 1:
        raise InputRefused(f"{file} does not hold exactly one function in one version.", REMEDY)
    block = next(iter(functions[0].block_specializations.values()))
    if functions[0].opset not in functions[0].block_specializations:
        raise InputRefused(f"{file} lacks the operations of {functions[0].opset}.", REMEDY)
    return functions[0], block


def _function(operation: Operation, literals: Mapping[str, Constant]) -> Callable[..., Any]:
    """What computes an operation.

    Raises:
        InputRefused: the operation, or one of its parameters, is not known, or one is missing.
    """
    where = f"{operation.type} {operation.output}"
    if operation.type not in OPS:
        raise InputRefused(f"The interpreter doesn't know the operation {where}.", REMEDY)
    known = inspect.signature(OPS[operation.type]).parameters
    given = {*operation.inputs, *literals}
    unknown = sorted(given - set(known))
    missing = sorted(name for name, row in known.items() if row.default is row.empty and name not in given)
    if unknown or missing:
        words = [f"doesn't know {name}" for name in unknown] + [f"misses {name}" for name in missing]
        raise InputRefused(f"In {where} the interpreter {', '.join(words)}.", REMEDY)
    return OPS[operation.type]


def _store(value: Any, kind: Kind, where: str) -> Tensor:
    """A value as the program keeps it: FP16 is rounded to FP16; shape and type must be the stated ones."""
    if not isinstance(value, Tensor):
        raise InputRefused(f"{where} makes no tensor.", REMEDY)
    if kind.dtype in ("string", "dictionary", "int64", "list"):  # only a classifier's answer
        return value
    expected = shapes.DTYPES.get(kind.dtype)
    fits = len(value.shape) == len(kind.shape) and all(
        want is None or want == size for want, size in zip(kind.shape, value.shape, strict=True)
    )
    if not fits or value.dtype != expected:
        made = f"{tuple(value.shape)} in {str(value.dtype).removeprefix('torch.')}"
        raise InputRefused(f"{where} makes {made}, where the program states {kind.shape} in {kind.dtype}.", REMEDY)
    return value.half().float() if kind.dtype == "fp16" else value
