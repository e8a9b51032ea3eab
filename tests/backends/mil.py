"""Small Core ML programs, written with coremltools' builder and saved as packages, for the interpreter's tests."""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rescompress.backends._coreml_interpreter import Program

needs_coremltools = pytest.mark.skipif(
    util.find_spec("coremltools") is None, reason="coremltools, which writes the programs, is not installed."
)
Body = Callable[..., Any]


@contextmanager
def silent() -> Iterator[None]:
    """coremltools warns of every torch that is newer than itself, and of all that macOS has and this machine lacks."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def save(path: Path, body: Body, inputs: dict[str, NDArray[Any]], target: str = "iOS17", /, **knobs: Any) -> Path:
    """Write a program without any pass over it, so that its operations are those of the body.

    Args:
        path: the ``.mlpackage``.
        body: called with the builder, ``mb``, and a variable for each input.
        inputs: an array like each, for its shape and type.
        target: the oldest system that it should run on.
        knobs: of ``coremltools.convert``.
    """
    with silent():
        import coremltools as ct
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.mil import Function, Program, types

        kinds = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}
        given = {name: mb.placeholder(array.shape, kinds[str(array.dtype)]) for name, array in inputs.items()}
        program = Program()
        with Function(given, opset_version=ct.target[target]) as function:
            made = body(mb, **function.inputs)
            function.set_outputs(list(made) if isinstance(made, tuple) else [made])
        program.add_function("main", function)
        knobs = {"pass_pipeline": ct.PassPipeline.EMPTY, "compute_precision": ct.precision.FLOAT32, **knobs}
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target[target],
            skip_model_load=True,
            **knobs,
        )
        model.save(str(path))
        del model  # its temporary folder goes with a warning
    return path


def loaded(body: Body, inputs: dict[str, NDArray[Any]], target: str = "iOS17", /, **knobs: Any) -> Program:
    """The interpreter's view of a program."""
    with tempfile.TemporaryDirectory() as folder:
        return Program(save(Path(folder) / "model.mlpackage", body, inputs, target, **knobs))


def ran(body: Body, target: str = "iOS17", **inputs: NDArray[Any]) -> NDArray[np.float32]:
    """The only output of a program for these inputs; FP16 programs are handed FP32."""
    program = loaded(body, inputs, target)
    given = {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in inputs.items()}
    (answer,) = program.run(given).values()
    return answer


def noise(*shape: int, seed: int = 0, dtype: type[np.floating[Any]] = np.float32) -> NDArray[Any]:
    """Normal numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def together(cases: dict[str, Body], target: str = "iOS17", **inputs: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """What each case makes of the same inputs, all in one program: writing one takes coremltools a while.

    Args:
        cases: by the name of their output; called with the builder and the inputs by name.
        target: the oldest system that the program should run on.
        inputs: the arrays.
    """

    def body(mb: Any, **variables: Any) -> Any:
        return tuple(mb.identity(x=case(mb, **variables), name=name) for name, case in cases.items())

    program = loaded(body, inputs, target)
    given = {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in inputs.items()}
    return program.run(given)
