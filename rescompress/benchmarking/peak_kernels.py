"""The hardest work that this machine does: matrix products and copies, run in a process of their own.

``python -m rescompress.benchmarking.peak_kernels THREADS`` prints one line of JSON. Best of many repetitions, and of
whatever is installed: a peak is what was seen once, so that disturbances only make it too low. Products of 512 x 512
take a millisecond, which fits between two interruptions of a busy machine; wide machines need larger ones.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rescompress.timing import Peaks

SIZES = (512, 1024)
SECONDS = 0.15
"""How long each kernel is repeated."""
LAST_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
USUAL_CACHE_MB, LARGEST_MB = 32, 256
Run = Callable[[], object]


def main() -> None:
    """Print the peaks on so many threads."""
    threads = int(sys.argv[1])
    print(json.dumps(asdict(measured(threads))))


def measured(threads: int) -> Peaks:
    """The peaks of this process's machine.

    Args:
        threads: that each product and copy may use.
    """
    torch.set_num_threads(threads)
    fp32 = max(n**3 / best(run) for n in SIZES for run in _float_products(n, threads))
    int8 = max(n**3 / best(run) for n in SIZES for run in _integer_products(n, threads))
    return Peaks(fp32 / 1e9, int8 / 1e9, max(size / best(run) for size, run in _streams()) / 1e9)


def best(run: Run) -> float:
    """The shortest of the runs of a short while, and of three at least, in seconds."""
    seconds, end = list[float](), time.perf_counter() + SECONDS
    while len(seconds) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _float_products(n: int, threads: int) -> Iterator[Run]:
    """FP32 products ``[n, n] @ [n, n]``."""
    a, b = (np.random.default_rng(seed).standard_normal((n, n), np.float32) for seed in (0, 1))
    out = np.empty_like(a)
    yield lambda: np.matmul(a, b, out=out)
    ours, other, made = map(torch.from_numpy, (a, b, out))
    yield lambda: torch.mm(ours, other, out=made)
    if util.find_spec("onnxruntime") and util.find_spec("onnx"):
        yield _onnxruntime("MatMul", a, b, threads)


def _integer_products(n: int, threads: int) -> Iterator[Run]:
    """INT8 products ``[n, n] @ [n, n]`` into INT32: signed by signed in PyTorch, unsigned by signed in ONNX Runtime."""
    a, b = (np.random.default_rng(seed).integers(0, 127, (n, n)) for seed in (0, 1))
    ours, other = (torch.from_numpy(x.astype(np.int8)) for x in (a, b))
    yield lambda: torch._int_mm(ours, other)
    if util.find_spec("onnxruntime") and util.find_spec("onnx"):
        yield _onnxruntime("MatMulInteger", a.astype(np.uint8), b.astype(np.int8), threads)


def _onnxruntime(op: str, a: Any, b: Any, threads: int) -> Run:
    """A product in ONNX Runtime, which packs a constant second factor beforehand."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    kind = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}[a.dtype.name]
    made = TensorProto.FLOAT if op == "MatMul" else TensorProto.INT32
    ends = [helper.make_tensor_value_info(name, type_, a.shape) for name, type_ in (("a", kind), ("c", made))]
    node = helper.make_node(op, ["a", "b"], ["c"])
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], [numpy_helper.from_array(b, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session: Any = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": a})


def _streams() -> Iterator[tuple[int, Run]]:
    """STREAM's copy and triad (McCalpin 1995) over arrays of four times the last cache, with the bytes they move."""
    a, b, c = (torch.ones(_array_bytes() // 4) for _ in range(3))
    yield 2 * 4 * len(a), lambda: c.copy_(a)
    yield 3 * 4 * len(a), lambda: torch.add(a, b, alpha=3.0, out=c)


def _array_bytes() -> int:
    """Of one array; no more than a sixteenth of the memory."""
    try:
        cache_mb = int(LAST_CACHE.read_text("ascii").strip().removesuffix("K")) / 1024
    except (OSError, ValueError):
        cache_mb = USUAL_CACHE_MB
    wanted = int(min(4 * cache_mb, LARGEST_MB)) << 20
    return min(wanted, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 16)


if __name__ == "__main__":
    main()
