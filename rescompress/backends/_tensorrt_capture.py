"""A CUDA graph through cuda-bindings: pycuda has none, but a stream's handle means the same to both."""

from collections.abc import Callable
from typing import Any


class Graph:
    """What one call puts on a stream, captured once and launched again without the host between its kernels.

    Args:
        enqueue: puts work on the stream; during capture it doesn't run.
        handle: of the stream, which is not the default one.

    Raises:
        RuntimeError: the driver refused, or the work can't be captured.
    """

    def __init__(self, enqueue: Callable[[], None], handle: int) -> None:
        from cuda.bindings import driver

        self._driver: Any = driver
        self._stream = driver.CUstream(handle)
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._done(driver.cuStreamBeginCapture(self._stream, mode))
        try:
            enqueue()
        except BaseException:
            driver.cuStreamEndCapture(self._stream)  # the stream can't be used until its capture ends
            raise
        graph = self._done(driver.cuStreamEndCapture(self._stream))
        try:
            self._executable = self._done(driver.cuGraphInstantiate(graph, 0))
        finally:
            self._done(driver.cuGraphDestroy(graph))

    def launch(self) -> None:
        """Put the captured work on the stream."""
        self._done(self._driver.cuGraphLaunch(self._executable, self._stream))

    def close(self) -> None:
        """Free the graph."""
        self._done(self._driver.cuGraphExecDestroy(self._executable))

    def _done(self, result: tuple[Any, ...]) -> Any:
        """What a call gave beside its status."""
        status, *values = result
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"CUDA refused to make a graph: {status.name}")
        return values[0] if values else None
