"""What TensorRT's profiler says of each layer of an engine. Contract-tested against a fake; not executed here."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from rescompress.backends import Images
from rescompress.backends import _tensorrt_inspect as inspecting
from rescompress.backends._layer_times import WARM_UP, Kernel, booked, repeated
from rescompress.timing import LayerTime

Query = dict[str, float]
"""What each layer of the engine took in one query, in ms."""


class Profiled(Protocol):
    """A session whose layers tell a profiler what they take."""

    def run(self, images: Images) -> Any:
        """One query."""
        ...

    def listen(self, profiler: Any) -> None:
        """From now on, each run tells this profiler."""
        ...

    def inspected(self) -> str:
        """What TensorRT's inspector says of each layer, as JSON."""
        ...


def read(session: Profiled, images: Images, proto: Any) -> tuple[tuple[LayerTime, ...], float]:
    """Layers with the medians of their times by the GPU's clock, and the median of whole queries, in ms.

    TensorRT waits behind each run to tell the times, so a query includes the copies and takes longer than usual.

    Args:
        session: an engine's.
        images: of one query.
        proto: the ``onnx.ModelProto`` that the engine was built from.
    """
    profiler, told, whole = listener(), list[Query](), list[float]()
    session.listen(profiler)

    def query() -> None:
        profiler.ms.clear()
        begin = time.perf_counter_ns()
        session.run(images)
        whole.append((time.perf_counter_ns() - begin) / 1e6)
        told.append(dict(profiler.ms))

    repeated(query)
    found = {kernel.name: kernel for kernel in inspecting.kernels(session.inspected(), proto)}
    kernels = []
    for name in told[-1]:
        kernel = found.get(name) or inspecting.kernel(name, {node.name for node in proto.graph.node})
        nodes = () if kernel.moves else tuple(node.name for node in proto.graph.node if node.name in kernel.nodes)
        kernels.append(Kernel(name, kernel.kind, _median([query.get(name, 0.0) for query in told]), nodes))
    return booked(kernels, inspecting.kinds_of(proto.graph)), _median(whole)


def listener() -> Any:
    """A ``tensorrt.IProfiler`` whose ``ms`` adds up what each layer took, in order of execution."""
    import tensorrt as trt

    class Listener(trt.IProfiler):  # type: ignore[misc, unused-ignore]
        """Keeps times."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.ms: Query = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT for each layer behind each run."""
            self.ms[layer_name] = self.ms.get(layer_name, 0.0) + ms

    return Listener()


def _median(ms: Sequence[float]) -> float:
    return float(np.median(ms[WARM_UP:]))
