"""A machine with a GPU and TensorRT that exist in memory only, behind the names of the real packages.

Work waits in its stream until somebody waits for it, copies read page-locked memory when they happen, a graph replays
what was captured, and an engine computes its ONNX file in ONNX Runtime. So whoever forgets to wait, to set an address
or to settle a shape before a capture gets a wrong answer here too.
"""

import itertools
import json
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import pytest

from rescompress.backends import _tensorrt_run
from tests.fakes.gpu_engines import PLAN, Engines, ends_of
from tests.fakes.vendor import Thing, Vendor

H2D_MS, D2H_MS = 1.0, 0.25
"""What an operation costs on the fake clock."""
NO_KERNEL = (
    "No low-precision conv kernel available for this strongly-typed Conv/ConvTranspose. Failing node: {}",
    "Error Code 10: Internal Error (Could not find any implementation for node {}. In computeCosts at optimizer.cpp:1)",
)
"""What 11.2.1 says in NVIDIA/TensorRT#4838, the first of them shortened."""
Operation = tuple[float, Callable[[], None]]


class Machine(Engines):
    """The driver, the GPU and TensorRT.

    Args:
        release: ``t10`` or ``t11``.
        refuse: ``(node, op, message)`` of each node that the parser refuses.
        no_kernel: names of layers that have no kernel in FP16.
        gpu: its name.
    """

    def __init__(
        self,
        release: str = "t11",
        *,
        refuse: tuple[tuple[str, str, str], ...] = (),
        no_kernel: tuple[str, ...] = (),
        gpu: str = "GPU 1",
        version: str | None = None,
    ) -> None:
        self.refuse, self.no_kernel, self.gpu = refuse, no_kernel, gpu
        self.clock_ms, self.addresses = 0.0, itertools.count(4096, 4096)
        self.memory: dict[int, bytearray] = {}
        self.queues: dict[int, list[Operation]] = {}
        self.captures: dict[int, list[Operation]] = {}
        self.contexts = self.launches = 0
        self.graphs_alive, self.builds, self.configs = 0, 0, []
        self.information = json.dumps({"Layers": []})
        self.trt = Vendor(release, _named(self, "trt"), version)
        self.pycuda = Vendor("pycuda", _named(self, "pycuda"))
        self.cuda = Vendor("cuda", _named(self, "cuda"))
        self.tensorrt = self.trt.module("tensorrt", ("ILogger", "IProgressMonitor", "IProfiler"))
        self.driver = self.cuda.module("cuda.bindings.driver")

    def install(self, patch: pytest.MonkeyPatch, *, graphs: bool = True) -> "Machine":
        """Let ``import`` find the packages; without ``graphs``, cuda-bindings is missing."""
        modules = {"tensorrt": self.tensorrt, "pycuda": types.ModuleType("pycuda")}
        modules["pycuda.driver"] = modules["pycuda"].driver = self.pycuda.module("pycuda.driver")
        if graphs:
            modules |= {"cuda": types.ModuleType("cuda"), "cuda.bindings": types.ModuleType("cuda.bindings")}
            modules["cuda"].bindings = modules["cuda.bindings"]
            modules["cuda.bindings.driver"] = modules["cuda.bindings"].driver = self.driver
        for name, module in modules.items():
            module.__spec__, module.__path__ = ModuleSpec(name, None), []
            patch.setitem(sys.modules, name, module)
        patch.setattr(_tensorrt_run, "_devices", lambda: 1)
        return self

    def put(self, handle: int, cost_ms: float, work: Callable[[], None]) -> None:
        """Put work on a stream, or into the graph that is captured on it."""
        self.captures.get(handle, self.queues[handle]).append((cost_ms, work))

    def drain(self, handle: int) -> None:
        """Do what waits in a stream."""
        assert handle not in self.captures, "nobody may wait for a stream whilst it is captured"
        waiting, self.queues[handle] = self.queues[handle], []
        for cost_ms, work in waiting:
            self.clock_ms += cost_ms
            work()

    # pycuda

    def pycuda_init(self, flags: int = 0) -> None:
        pass

    def pycuda_get_driver_version(self) -> int:
        return 13000

    def pycuda_Device(self, number: int) -> Thing:
        assert number == 0
        return Thing(self.pycuda, "Device")

    def pycuda_Device_name(self, device: Thing) -> str:
        return self.gpu

    def pycuda_Device_compute_capability(self, device: Thing) -> tuple[int, int]:
        return (9, 0)

    def pycuda_Device_retain_primary_context(self, device: Thing) -> Thing:
        return Thing(self.pycuda, "Context")

    def pycuda_Context_push(self, context: Thing) -> None:
        self.contexts += 1

    def pycuda_Stream(self, flags: int = 0) -> Thing:
        handle = next(self.addresses)
        self.queues[handle] = []
        return Thing(self.pycuda, "Stream", handle=handle)

    def pycuda_Stream_synchronize(self, stream: Thing) -> None:
        self.drain(stream.state["handle"])

    def pycuda_Event(self) -> Thing:
        return Thing(self.pycuda, "Event", at_ms=None, on=None)

    def pycuda_Event_record(self, event: Thing, stream: Thing) -> None:
        event.state["on"] = stream.state["handle"]
        self.put(event.state["on"], 0, lambda: event.state.update(at_ms=self.clock_ms))

    def pycuda_Event_synchronize(self, event: Thing) -> None:
        self.drain(event.state["on"])

    def pycuda_Event_time_till(self, event: Thing, other: Thing) -> float:
        return float(other.state["at_ms"] - event.state["at_ms"])

    def pycuda_pagelocked_empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.full(shape, 77, dtype)

    def pycuda_mem_alloc(self, size: int) -> Thing:
        if size > 1 << 30:
            raise sys.modules["pycuda.driver"].MemoryError("out of memory")
        address = next(self.addresses)
        self.memory[address] = bytearray(size)
        return Thing(self.pycuda, "DeviceAllocation", address=address)

    def pycuda_DeviceAllocation_free(self, allocation: Thing) -> None:
        del self.memory[int(allocation)]

    def pycuda_memcpy_htod_async(self, dest: Thing, src: Any, stream: Thing) -> None:
        assert src.flags.c_contiguous

        def copy() -> None:
            self.memory[int(dest)][: src.nbytes] = src.tobytes()

        self.put(stream.state["handle"], H2D_MS, copy)

    def pycuda_memcpy_dtoh_async(self, dest: Any, src: Thing, stream: Thing) -> None:
        def copy() -> None:
            dest[...] = np.frombuffer(self.memory[int(src)][: dest.nbytes], dest.dtype).reshape(dest.shape)

        self.put(stream.state["handle"], D2H_MS, copy)

    # cuda-bindings

    def cuda_CUstream(self, handle: int) -> Thing:
        return Thing(self.cuda, "CUstream", handle=handle)

    def cuda_cuStreamBeginCapture(self, stream: Thing, mode: Any) -> tuple[Any, ...]:
        assert not self.queues[stream.state["handle"]], "what was put before belongs to no graph"
        self.captures[stream.state["handle"]] = []
        return (self.driver.CUresult.CUDA_SUCCESS,)

    def cuda_cuStreamEndCapture(self, stream: Thing) -> tuple[Any, ...]:
        return self.driver.CUresult.CUDA_SUCCESS, self.captures.pop(stream.state["handle"])

    def cuda_cuGraphInstantiate(self, graph: list[Operation], flags: int) -> tuple[Any, ...]:
        self.graphs_alive += 1
        return self.driver.CUresult.CUDA_SUCCESS, list(graph)

    def cuda_cuGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        return (self.driver.CUresult.CUDA_SUCCESS,)

    def cuda_cuGraphExecDestroy(self, graph: Any) -> tuple[Any, ...]:
        self.graphs_alive -= 1
        return (self.driver.CUresult.CUDA_SUCCESS,)

    def cuda_cuGraphLaunch(self, graph: list[Operation], stream: Thing) -> tuple[Any, ...]:
        self.launches += 1
        for operation in graph:
            self.put(stream.state["handle"], *operation)
        return (self.driver.CUresult.CUDA_SUCCESS,)

    def pycuda_Context_pop(self) -> None:
        self.contexts -= 1

    # TensorRT: building

    def trt_Builder(self, logger: Any) -> Thing:
        return Thing(self.trt, "Builder", logger=logger)

    def trt_Builder_create_network(self, builder: Thing, flags: int) -> Thing:
        return Thing(self.trt, "INetworkDefinition", typed=flags, proto=None)

    def trt_OnnxParser(self, network: Thing, logger: Any) -> Thing:
        return Thing(self.trt, "OnnxParser", network=network, num_errors=len(self.refuse))

    def trt_OnnxParser_parse(self, parser: Thing, model: bytes) -> bool:
        import onnx

        parser.state["network"].state["proto"] = onnx.load_from_string(model)
        return not self.refuse

    def trt_OnnxParser_get_error(self, parser: Thing, place: int) -> Thing:
        return Thing(self.trt, "ParserError", place=place)

    def trt_ParserError_node(self, error: Thing) -> int:
        return int(error.state["place"])

    def trt_ParserError_node_name(self, error: Thing) -> str:
        return self.refuse[error.state["place"]][0]

    def trt_ParserError_node_operator(self, error: Thing) -> str:
        return self.refuse[error.state["place"]][1]

    def trt_ParserError_desc(self, error: Thing) -> str:
        return self.refuse[error.state["place"]][2]

    def trt_ParserError_code(self, error: Thing) -> Any:
        return self.tensorrt.ErrorCode.UNSUPPORTED_NODE

    def trt_INetworkDefinition_get_input(self, network: Thing, place: int) -> Thing:
        name, shape = ends_of(network.state["proto"])[0][:2]
        assert place == 0
        return Thing(self.trt, "ITensor", name=name, shape=shape)

    def trt_Builder_create_builder_config(self, builder: Thing) -> Thing:
        self.configs.append(Thing(self.trt, "IBuilderConfig", flags={"TF32"}, profiles=[], pools={}))
        return self.configs[-1]

    def trt_IBuilderConfig_set_flag(self, config: Thing, flag: Any) -> None:
        config.state["flags"].add(flag.name)

    def trt_IBuilderConfig_clear_flag(self, config: Thing, flag: Any) -> None:
        config.state["flags"].discard(flag.name)

    def trt_IBuilderConfig_set_memory_pool_limit(self, config: Thing, pool: Any, size: int) -> None:
        config.state["pools"][pool.name] = size

    def trt_IBuilderConfig_create_timing_cache(self, config: Thing, content: bytes) -> Thing:
        return Thing(self.trt, "ITimingCache", content=content)

    def trt_IBuilderConfig_set_timing_cache(self, config: Thing, cache: Thing, ignore_mismatch: bool) -> bool:
        fits = bytes(cache) == b"" or bytes(cache).startswith(b"timings")
        if fits:
            config.state["cache"] = cache
        return fits and not ignore_mismatch

    def trt_IBuilderConfig_get_timing_cache(self, config: Thing) -> Thing:
        return Thing(self.trt, "ITimingCache", content=bytes(config.state["cache"]) + b"timings")

    def trt_ITimingCache_serialize(self, cache: Thing) -> Thing:
        return Thing(self.trt, "IHostMemory", content=bytes(cache))

    def trt_Builder_create_optimization_profile(self, builder: Thing) -> Thing:
        return Thing(self.trt, "IOptimizationProfile")

    def trt_IOptimizationProfile_set_shape(self, profile: Thing, name: str, *shapes: tuple[int, ...]) -> None:
        profile.state[name] = shapes

    def trt_IBuilderConfig_add_optimization_profile(self, config: Thing, profile: Thing) -> int:
        config.state["profiles"].append(profile.state)
        return 0

    def trt_Builder_build_serialized_network(self, builder: Thing, network: Thing, config: Thing) -> Thing | None:
        self.builds += 1
        logger, proto, monitor = builder.state["logger"], network.state["proto"], config.state["progress_monitor"]
        assert network.state["typed"] >> int(self.tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) & 1
        monitor.phase_start("Building engine", None, 2)
        monitor.phase_start("Timing kernels", "Building engine", 3)
        told = [monitor.step_complete("Timing kernels", step) for step in range(3)]
        monitor.phase_finish("Timing kernels")
        monitor.step_complete("Building engine", 0)
        monitor.phase_finish("Building engine")
        lacking = [name for name in self.no_kernel if name in _halves(proto)]
        for text in NO_KERNEL if lacking else ():
            logger.log(self.tensorrt.ILogger.ERROR, text.format(lacking[0]))
        if lacking or not all(told):
            return None
        profiles = [
            {name: list(map(list, shapes)) for name, shapes in state.items()} for state in config.state["profiles"]
        ]
        content = PLAN + json.dumps(profiles).encode() + b"\n" + proto.SerializeToString()
        return Thing(self.trt, "IHostMemory", content=content)


def _named(machine: Machine, package: str) -> dict[str, Callable[..., Any]]:
    """What a package's classes and functions do: the methods that are called ``package_Class_method``."""
    found = {}
    for name in dir(machine):
        kind, _, member = name.removeprefix(f"{package}_").partition("_")
        if name.startswith(f"{package}_"):
            dotted = f"{kind}.{member}" if member and kind[0].isupper() else name.removeprefix(f"{package}_")
            found[dotted] = getattr(machine, name)
    return found


def _halves(proto: Any) -> set[str]:
    """Names of the nodes that write FP16."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(proto).graph
    half = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    return {node.name for node in graph.node if node.output[0] in half}
