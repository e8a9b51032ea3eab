"""A package that runs: in Core ML on macOS, elsewhere in an interpreter of what was saved."""

import platform
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rescompress.backends._coreml_interpreter import Program
from rescompress.backends._coreml_interpreter_file import read_spec
from rescompress.backends._coreml_program import BATCHES
from rescompress.backends._coreml_write import INPUT
from rescompress.errors import InputRefused


class Runs(Protocol):
    """What computes a package."""

    def run(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """All outputs, by name."""
        ...


class CoremlSession:
    """A saved package that answers.

    Args:
        package: the ``.mlpackage``.
        threads: of the interpreter; Core ML itself takes as many as it likes.
        program: what computes, if not the best that this machine has.

    Raises:
        InputRefused: the package is damaged.
    """

    def __init__(self, package: Path, threads: int, program: Runs | None = None) -> None:
        self._threads = threads
        try:
            description = read_spec(package)[0].description
            self._program: Runs = program or _program_of(package)
        except InputRefused as error:
            raise InputRefused(f"Core ML can't load {package}: {error.fact}", "Export the model again.") from None
        except RuntimeError as error:  # what Core ML's compiler says
            raise InputRefused(f"Core ML can't load {package}: {error}.", "Export the model again.") from None
        array = description.input[0].type.multiArrayType
        self._fixed = int(array.shape[0]) if array.shape and not array.shapeRange.sizeRanges else None
        likeliest = description.predictedFeatureName
        self._outputs = [feature.name for feature in description.output if feature.name != likeliest]

    def __enter__(self) -> "CoremlSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._program

    def run(self, images: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images ``[n, 3, h, w]``, or pixels ``[n, h, w, 3]``, to logits, probabilities or maps, one row an image.

        Where the batch is fixed, the last one is filled up with black images.
        """
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            rows = [self._batch(images[start : start + self._step]) for start in range(0, len(images), self._step)]
        finally:
            torch.set_num_threads(before)
        return np.concatenate(rows)

    @property
    def _step(self) -> int:
        return self._fixed or BATCHES

    def _batch(self, images: NDArray[Any]) -> NDArray[np.float32]:
        count = len(images)
        if self._fixed and count < self._fixed:
            images = np.concatenate([images, np.zeros((self._fixed - count, *images.shape[1:]), images.dtype)])
        answers = self._program.run({INPUT: images})
        rows = [answers[name].reshape(len(images), -1)[:count] for name in self._outputs]
        return np.concatenate(rows, 1)


def _program_of(package: Path) -> Runs:
    if platform.system() != "Darwin":
        return Program(package)
    from rescompress.backends._coreml_predict import Predictor

    return Predictor(package)
