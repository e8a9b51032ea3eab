"""One artifact in one runtime, in a process of its own: gives logits, and times single images when it is told to.

``python player.py RUNTIME FILE BATCH`` reads requests and writes answers, both one line of JSON each.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Session = Callable[[Array], Array]
THREADS = 1
INT8 = (
    "QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "QLinearAdd",
    "QLinearGlobalAveragePool", "QLinearAveragePool",
)  # fmt: skip
FLOAT = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Add", "GlobalAveragePool", "AveragePool", "ReduceMean")
"""Node types of ONNX Runtime that compute; the rest moves or rescales."""
COMPUTING = ("Convolution", "FullyConnected", "MatMul", "Eltwise", "Add", "Pooling", "Reduce", "ReduceMean")
"""Layer types of OpenVINO's compiled model that compute."""


class Player:
    """A client of one such process; it loads while others do. Use it as a context manager."""

    def __init__(self, runtime: str, file: Path, batch: int = 1) -> None:
        self.command = [sys.executable, str(Path(__file__)), runtime, str(file), str(batch)]

    def __enter__(self) -> "Player":
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()

    def ask(self, **request: Any) -> Any:
        """Send a request and wait for its answer.

        Raises:
            RuntimeError: the process died; its own words are on standard error.
        """
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"The player of {self.command[2:4]} died with status {self.process.wait()}.")
        return json.loads(answer)


def open_onnxruntime(file: Path, batch: int) -> tuple[Session, dict[str, Any]]:
    """A session on the CPU provider, and the node types of the graph that it optimized."""
    import tempfile

    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node
    count = Counter(node.op_type for node in nodes)
    integer, real = sum(count[kind] for kind in INT8), sum(count[kind] for kind in FLOAT)
    facts = {"nodes": dict(sorted(count.items())), "int8": integer, "computing": integer + real}
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0], facts


def open_openvino(file: Path, batch: int) -> tuple[Session, dict[str, Any]]:
    """A compiled model for this batch, and the layer types of its execution graph with their precision."""
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    model.reshape([batch, *(side.get_length() for side in list(model.input(0).partial_shape)[1:])])
    settings = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", settings)
    layers = [
        (told["layerType"].get(), told["runtimePrecision"].get())
        for told in (op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops())
    ]
    computing = [precision for kind, precision in layers if kind in COMPUTING]
    facts = {
        "nodes": dict(sorted(Counter(" ".join(layer) for layer in layers).items())),
        "int8": sum(precision in ("i8", "u8") for precision in computing),
        "computing": len(computing),
    }
    request = compiled.create_infer_request()
    return lambda images: request.infer({0: images})[compiled.output(0)], facts


def logits(session: Session, images: Array, batch: int) -> Array:
    """All images in batches; the last is filled up."""
    found = []
    for start in range(0, len(images), batch):
        part = np.ascontiguousarray(images[start : start + batch])
        full = np.resize(part, (batch, *part.shape[1:]))
        found.append(np.array(session(full)).reshape(batch, -1)[: len(part)])
    return np.concatenate(found)


def timed(session: Session, ring: Array, order: random.Random, seconds: float, at_least: int) -> list[int]:
    """Nanoseconds of single images, each drawn from the ring before its clock starts."""
    taken: list[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while time.perf_counter_ns() < end or len(taken) < at_least:
        place = order.randrange(len(ring))
        image = ring[place : place + 1]
        begin = time.perf_counter_ns()
        session(image)
        taken.append(time.perf_counter_ns() - begin)
    return taken


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a runtime prints can break an answer
    runtime, file, batch = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    session, facts = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}[runtime](file, batch)
    ring, order = np.empty(0, np.float32), random.Random(0)
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any = {}
        if request["do"] == "facts":
            answer = facts
        elif request["do"] == "logits":
            images = np.load(request["images"], mmap_mode="r")[: request["limit"]]
            np.save(request["out"], logits(session, images, batch))
        elif request["do"] == "hold":
            ring = np.array(np.load(request["images"], mmap_mode="r")[: request["limit"]])
        else:
            answer = timed(session, ring, order, request["seconds"], request["at_least"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
