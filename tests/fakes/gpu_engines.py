"""The half of the fake machine that runs engines."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.fakes.vendor import Thing, Vendor

PLAN = b"PLAN"
"""How a fake engine begins; then come its profiles, a line of JSON, and its ONNX file."""
COMPUTE_MS = 10.0
DTYPES = {1: "FLOAT", 2: "UINT8"}
"""Of TensorRT, by those of ONNX."""


def ends_of(proto: Any) -> list[tuple[str, tuple[int, ...], str, str]]:
    """Name, shape with -1 where it is free, type and mode of each input and output."""
    graph = proto.graph
    found = []
    for mode, values in (("INPUT", graph.input), ("OUTPUT", graph.output)):
        for value in values:
            kind = value.type.tensor_type
            shape = tuple(side.dim_value if side.HasField("dim_value") else -1 for side in kind.shape.dim)
            found.append((value.name, shape, DTYPES[kind.elem_type], mode))
    return found


class Engines:
    """Behaviours of TensorRT's runtime: an engine computes its ONNX file in ONNX Runtime."""

    trt: Vendor
    tensorrt: Any
    memory: dict[int, bytearray]
    queues: dict[int, list[Any]]
    captures: dict[int, list[Any]]
    information: str
    addresses: Iterator[int]
    put: Callable[[int, float, Callable[[], None]], None]
    drain: Callable[[int], None]

    def trt_Runtime(self, logger: Any) -> Thing:
        return Thing(self.trt, "Runtime", logger=logger, engine_host_code_allowed=False)

    def trt_Runtime_deserialize_cuda_engine(self, runtime: Thing, content: bytes) -> Thing | None:
        import onnx
        import onnxruntime

        if not content.startswith(PLAN):
            runtime.state["logger"].log(self.tensorrt.ILogger.ERROR, "Magic tag does not match")
            return None
        profiles, _, model = content.removeprefix(PLAN).partition(b"\n")
        ends = {end[0]: end for end in ends_of(onnx.load_from_string(model))}
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (profile,) = json.loads(profiles) or [None]
        state = {"ends": ends, "session": session, "profile": profile, "num_io_tensors": len(ends)}
        return Thing(self.trt, "ICudaEngine", **state)

    def trt_ICudaEngine_get_tensor_name(self, engine: Thing, place: int) -> str:
        return next(itertools.islice(engine.state["ends"], place, None))

    def trt_ICudaEngine_get_tensor_mode(self, engine: Thing, name: str) -> Any:
        return getattr(self.tensorrt.TensorIOMode, engine.state["ends"][name][3])

    def trt_ICudaEngine_get_tensor_dtype(self, engine: Thing, name: str) -> Any:
        return getattr(self.tensorrt.DataType, engine.state["ends"][name][2])

    def trt_nptype(self, dtype: Any) -> Any:
        return {"FLOAT": np.float32, "UINT8": np.uint8}[dtype.name]

    def trt_ICudaEngine_get_tensor_shape(self, engine: Thing, name: str) -> tuple[int, ...]:
        return tuple(engine.state["ends"][name][1])

    def trt_ICudaEngine_get_tensor_profile_shape(self, engine: Thing, name: str, place: int) -> list[list[int]]:
        assert place == 0
        return list(engine.state["profile"][name])

    def trt_ICudaEngine_create_execution_context(self, engine: Thing) -> Thing:
        return Thing(
            self.trt, "IExecutionContext", engine=engine, shape=None, addresses={}, settled=None, profiler=None
        )

    def trt_ICudaEngine_create_engine_inspector(self, engine: Thing) -> Thing:
        return Thing(self.trt, "EngineInspector", execution_context=None)

    def trt_EngineInspector_get_engine_information(self, inspector: Thing, form: Any) -> str:
        assert form.name == "JSON"
        assert inspector.state["execution_context"].state["shape"], "formats are unknown until shapes are"
        return self.information

    def trt_IExecutionContext_set_input_shape(self, context: Thing, name: str, shape: tuple[int, ...]) -> bool:
        engine = context.state["engine"].state
        least, most = (engine["ends"][name][1],) * 2 if engine["profile"] is None else engine["profile"][name][::2]
        fits = all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True))
        if fits:
            context.state["shape"] = shape
        return fits

    def trt_IExecutionContext_infer_shapes(self, context: Thing) -> list[str]:
        return []

    def trt_IExecutionContext_get_tensor_shape(self, context: Thing, name: str) -> tuple[int, ...]:
        return (context.state["shape"][0], *context.state["engine"].state["ends"][name][1][1:])

    def trt_IExecutionContext_set_tensor_address(self, context: Thing, name: str, address: int) -> bool:
        context.state["addresses"][name] = address
        return True

    def trt_IExecutionContext_execute_async_v3(self, context: Thing, handle: int) -> bool:
        state, engine = context.state, context.state["engine"].state
        if set(state["addresses"]) != set(engine["ends"]) or handle not in self.queues:
            return False
        if handle in self.captures and state["settled"] != state["shape"]:
            return False  # the first work after a new shape may allocate, which no capture may
        state["settled"] = shape = state["shape"]

        def compute() -> None:
            inputs = {}
            for name, _, kind, mode in engine["ends"].values():
                if mode == "INPUT":
                    dtype = np.dtype(np.float32 if kind == "FLOAT" else np.uint8)
                    raw = self.memory[state["addresses"][name]][: int(np.prod(shape)) * dtype.itemsize]
                    inputs[name] = np.frombuffer(bytes(raw), dtype).reshape(shape)
            names = [name for name, *_, mode in engine["ends"].values() if mode == "OUTPUT"]
            for name, answer in zip(names, engine["session"].run(names, inputs), strict=True):
                self.memory[state["addresses"][name]][: answer.nbytes] = answer.tobytes()

        self.put(handle, COMPUTE_MS, compute)
        if state["profiler"] is not None:
            assert handle not in self.captures, "a run that tells times waits, which no capture may"
            self.drain(handle)
            layers = json.loads(self.information)["Layers"]
            for layer in layers:
                state["profiler"].report_layer_time(layer["Name"], COMPUTE_MS / len(layers))
        return True
