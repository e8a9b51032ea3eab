"""Where no engine can run: the file's arithmetic in ONNX Runtime, which climbs no rung."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rescompress.backends import Images, in_batches
from rescompress.errors import BackendMissing, InputRefused


class StandIn:
    """``model.onnx`` in ONNX Runtime without its optimizations: the file's arithmetic, and nothing of TensorRT."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise BackendMissing(
                f"Neither TensorRT nor ONNX Runtime is here to run {path}.", "Run: pip install 'rescompress[onnx]'"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # the C++ layer raises its own unrelated classes
            raise InputRefused(f"ONNX Runtime can't load {path}: {error}.", "Export the model again.") from None
        (taken,) = self._session.get_inputs()
        self._input, self._batch = taken.name, taken.shape[0] if isinstance(taken.shape[0], int) else None

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._session

    def run(self, images: Images) -> NDArray[np.float32]:
        """Images as the manifest says to logits, probabilities or all maps, one row an image."""
        return in_batches(self._run, images, self._batch)

    def _run(self, images: Images) -> NDArray[np.float32]:
        outputs: Sequence[NDArray[np.float32]] = self._session.run(None, {self._input: images})
        return np.concatenate([output.reshape(len(output), -1) for output in outputs], 1)
