"""Running a TFLite file in LiteRT's interpreter, and what its XNNPACK delegate took."""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rescompress.errors import InputRefused


class LitertSession:
    """An interpreter on the CPU; float images are turned to channels last, integers scaled, on the host.

    Args:
        path: the ``.tflite`` file.
        threads: of the interpreter and of XNNPACK.
        pixels: whether it takes uint8 images ``[n, h, w, 3]``.
    """

    def __init__(self, path: Path, threads: int, *, pixels: bool = False) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._pixels = pixels
        try:
            self.interpreter: Any = Interpreter(str(path), num_threads=threads)
            self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputRefused(f"LiteRT can't load {path}: {_brief(error)}.", "Export the model again.") from None
        (self._input,) = self.interpreter.get_input_details()
        self._outputs = self.interpreter.get_output_details()
        self._batch, self._flexible = int(self._input["shape"][0]), int(self._input["shape_signature"][0]) == -1

    def __enter__(self) -> "LitertSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self.interpreter

    def run(self, images: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images to logits ``[n, classes]``, to probabilities, or to all maps, one row an image.

        Args:
            images: normalized ``[n, 3, h, w]`` in float32, or pixels ``[n, h, w, 3]`` in uint8 where it takes those.
        """
        stored = images if self._pixels else images.transpose(0, 2, 3, 1)
        stored = _quantized(stored, self._input)
        if self._flexible:
            self._fit(len(images))
        rows = [self._once(stored[i : i + self._batch]) for i in range(0, len(images), self._batch)]
        return np.concatenate(rows)

    def _fit(self, batch: int) -> None:
        if batch != self._batch:
            self.interpreter.resize_tensor_input(self._input["index"], [batch, *self._input["shape"][1:]])
            self.interpreter.allocate_tensors()
            self._batch = batch

    def _once(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """One run; where the batch is fixed, images of zeros fill the last one up."""
        count = len(images)
        if count < self._batch:
            images = np.concatenate([images, np.zeros((self._batch - count, *images.shape[1:]), images.dtype)])
        self.interpreter.set_tensor(self._input["index"], np.ascontiguousarray(images))
        self.interpreter.invoke()
        rows = []
        for output in self._outputs:
            made = _dequantized(self.interpreter.get_tensor(output["index"]), output)[:count]
            made = made.transpose(0, 3, 1, 2) if made.ndim == 4 else made
            rows.append(made.reshape(count, -1))
        return np.concatenate(rows, 1)


def _quantized(images: NDArray[Any], details: dict[str, Any]) -> NDArray[Any]:
    """Float images as the input's integers, halves to even; others as they are."""
    if details["dtype"] is not np.int8:
        return images
    scale, zero = details["quantization"]
    steps = np.round(images / np.float32(scale)) + zero
    integers: NDArray[np.int8] = steps.clip(-128, 127).astype(np.int8)
    return integers


def _dequantized(values: NDArray[Any], details: dict[str, Any]) -> NDArray[np.float32]:
    if details["dtype"] is np.float32:
        return values
    scale, zero = details["quantization"]
    floats: NDArray[np.float32] = (values.astype(np.float32) - np.float32(zero)) * np.float32(scale)
    return floats


def _brief(error: Exception) -> str:
    """The first sentence of a message."""
    return str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".") or type(error).__name__
