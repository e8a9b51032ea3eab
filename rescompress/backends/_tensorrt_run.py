"""Running engines with pycuda, each part on the GPU's own clock."""

import ctypes
from contextlib import suppress
from dataclasses import dataclass
from importlib import util
from itertools import pairwise
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rescompress import progress
from rescompress.backends import _tensorrt_log as log
from rescompress.backends._tensorrt_capture import Graph
from rescompress.errors import InputRefused, ResourceExhausted

OLDEST = (10, 12)
DRIVER = "libcuda.so.1"
Images = NDArray[np.float32] | NDArray[np.uint8]


@dataclass(frozen=True)
class Times:
    """What one ``run`` took on the GPU's clock, in ms: copies to it, its work, copies back; all batches together."""

    h2d_ms: float = 0.0
    compute_ms: float = 0.0
    d2h_ms: float = 0.0

    def __add__(self, other: "Times") -> "Times":
        return Times(self.h2d_ms + other.h2d_ms, self.compute_ms + other.compute_ms, self.d2h_ms + other.d2h_ms)


def hindrance() -> str:
    """What keeps this machine from building and running engines, in a sentence; empty where nothing does."""
    lacks = [package for package in ("tensorrt", "pycuda") if util.find_spec(package) is None]
    if not _devices():
        lacks.append("a CUDA device")
    if lacks:
        listed = ", ".join(lacks[:-1]) + " and " if len(lacks) > 1 else ""
        return f"{listed}{lacks[-1]} {'are' if len(lacks) > 1 else 'is'} missing here."
    try:
        import pycuda.driver  # noqa: F401 - loads the driver
        import tensorrt as trt
    except (ImportError, OSError) as error:
        return f"The libraries of TensorRT or CUDA can't be loaded: {log.brief(str(error))}."
    release = tuple(int(part) for part in trt.__version__.split(".")[:2])
    return f"TensorRT {trt.__version__} is older than 10.12." if release < OLDEST else ""


def made_with() -> dict[str, str]:
    """What an engine depends on: TensorRT, the GPU and its driver."""
    import pycuda.driver as cuda
    import tensorrt as trt

    cuda.init()
    device = cuda.Device(0)
    major, minor = device.compute_capability()
    return {
        "tensorrt": str(trt.__version__),
        "gpu": str(device.name()),
        "compute capability": f"{major}.{minor}",
        "driver": str(cuda.get_driver_version()),
    }


class EngineSession:
    """An engine on the first GPU: page-locked buffers, a stream of its own, a CUDA graph of the batch at hand.

    ``last_times_ms`` is the device clock. Batches larger than the engine takes are split; smaller ones are padded.
    """

    def __init__(self, engine: bytes, *, portable: bool = False) -> None:
        import pycuda.driver as cuda

        cuda.init()
        self._cuda: Any = cuda
        self._primary: Any = cuda.Device(0).retain_primary_context()  # PyTorch's too, if it is here
        self._primary.push()
        self._graph: Graph | None = None
        self._capturing = True
        self.last_times_ms = Times()
        try:
            self._deserialize(engine, portable)
            self._allocate()
        except BaseException:
            self._leave()
            raise

    def __enter__(self) -> "EngineSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.synchronize()
        self._leave()

    def run(self, images: Images) -> NDArray[np.float32]:
        """Images as the manifest says to logits, probabilities or all maps, one row an image.

        Args:
            images: float32 ``[n, 3, h, w]``, or uint8 ``[n, h, w, 3]``.
        """
        self.last_times_ms = Times()
        parts = [self._run(images[start : start + self._most]) for start in range(0, len(images), self._most)]
        return np.concatenate(parts)

    @property
    def compute_ns(self) -> int:
        """What the last ``run`` took on the GPU's own clock, without copies, all its batches."""
        return round(self.last_times_ms.compute_ms * 1e6)

    def inspected(self) -> str:
        """What TensorRT's inspector says of each layer for the batch that was shown last, as JSON."""
        import tensorrt as trt

        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context  # else formats are "N/A due to dynamic shapes"
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def listen(self, profiler: Any) -> None:
        """From now on each run tells a ``tensorrt.IProfiler`` what its layers take, and waits until it has.

        Kernels are launched one by one, because a CUDA graph tells nothing.
        """
        self._drop_graph()
        self._capturing = False
        self._context.profiler = profiler

    def _deserialize(self, engine: bytes, portable: bool) -> None:
        import tensorrt as trt

        self._log = log.make()
        runtime = log.opened(trt.Runtime, self._log)
        if portable:
            runtime.engine_host_code_allowed = True  # a version-compatible engine brings its own runtime
        self._engine = runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            said = log.last(self._log, "no reason given")
            raise InputRefused(f"TensorRT can't load the engine: {said}.", "Export the model again.")
        self._runtime = runtime
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise ResourceExhausted("The GPU has no memory for the engine.", "Close what else runs on it.")

    def _allocate(self) -> None:
        """Buffers for the largest batch, at addresses that never change."""
        import tensorrt as trt

        engine = self._engine
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        (self._input,) = (name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        self._outputs = [name for name in names if name != self._input]
        shape = tuple(engine.get_tensor_shape(self._input))
        self._least = self._most = shape[0]
        if shape[0] < 0:
            least, _, most = engine.get_tensor_profile_shape(self._input, 0)
            self._least, self._most = least[0], most[0]
        self._shape: tuple[int, ...] | None = None
        self._sides = shape[1:]
        self._stream = self._cuda.Stream()
        self._take(self._most)
        self._host, self._device = {}, {}
        for name in names:
            full = tuple(self._context.get_tensor_shape(name))
            self._host[name] = self._cuda.pagelocked_empty(full, trt.nptype(engine.get_tensor_dtype(name)))
            try:
                self._device[name] = self._cuda.mem_alloc(self._host[name].nbytes)
            except self._cuda.MemoryError:
                raise ResourceExhausted(
                    f"The GPU has no memory for {self._most} images.", "Export with a smaller max_batch."
                ) from None
            self._context.set_tensor_address(name, int(self._device[name]))

    def _take(self, count: int) -> None:
        """Set the batch, and forget the graph of another one."""
        shape = (count, *self._sides)
        if shape == self._shape:
            return
        self._drop_graph()
        if not self._context.set_input_shape(self._input, shape) or self._context.infer_shapes():
            raise InputRefused(
                f"The engine takes {self._least} to {self._most} images of {self._sides}, not {shape}.",
                "Show it images as it was exported for.",
            )
        self._shape = shape

    def _run(self, images: Images) -> NDArray[np.float32]:
        n, cuda = len(images), self._cuda
        shown = max(n, self._least)
        if images.shape[1:] != self._sides:
            raise InputRefused(
                f"The engine takes images of {self._sides}, not {images.shape[1:]}.", "Show it such images."
            )
        self._take(shown)
        host = self._host[self._input]
        host[:n] = images
        host[n:shown] = 0
        self._prepare()
        marks = [cuda.Event() for _ in range(4)]
        marks[0].record(self._stream)
        cuda.memcpy_htod_async(self._device[self._input], host[:shown], self._stream)
        marks[1].record(self._stream)
        self._launch()
        marks[2].record(self._stream)
        for name in self._outputs:
            cuda.memcpy_dtoh_async(self._host[name][:shown], self._device[name], self._stream)
        marks[3].record(self._stream)
        marks[3].synchronize()
        self.last_times_ms += Times(*(before.time_till(after) for before, after in pairwise(marks)))
        rows = [self._host[name][:n].reshape(n, -1).astype(np.float32) for name in self._outputs]
        return np.concatenate(rows, 1)

    def _prepare(self) -> None:
        """Capture a graph of this batch, once; the work before it lets TensorRT settle what a capture may not do."""
        if self._graph is not None or not self._capturing:
            return
        if util.find_spec("cuda") is None or util.find_spec("cuda.bindings") is None:
            self._capturing = False
            progress.note("Kernels are launched one by one: a CUDA graph needs cuda-bindings.")
            return
        self._enqueue()
        self._stream.synchronize()
        try:
            self._graph = Graph(self._enqueue, self._stream.handle)
        except (RuntimeError, ImportError) as error:
            self._capturing = False
            progress.note(f"Kernels are launched one by one: {log.brief(str(error))}.")

    def _launch(self) -> None:
        self._enqueue() if self._graph is None else self._graph.launch()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise RuntimeError(f"TensorRT can't run the engine: {log.last(self._log, 'no reason given')}")

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self._graph = None

    def _leave(self) -> None:
        """Free what is on the GPU before its context goes."""
        self._drop_graph()
        for memory in getattr(self, "_device", {}).values():
            memory.free()
        self._device, self._host = {}, {}
        self._context = self._engine = self._runtime = self._stream = None
        self._cuda.Context.pop()


def _devices() -> int:
    """How many GPUs CUDA's driver knows here."""
    count = ctypes.c_int(0)
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL(DRIVER)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0
