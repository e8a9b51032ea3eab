"""What a compiled network really computes in: the kernels that one run calls, and the types of what they are given."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from rescompress.backends import _inductor_build as build
from rescompress.spec import LayerPrecision

CALLED = {
    "conv": ("aten::convolution", "aten::_convolution", "aten::cudnn_convolution", "aten::mkldnn_convolution"),
    "linear": ("aten::addmm", "aten::mm", "aten::linear"),
}
"""Operators of PyTorch that compute a layer; of those inside one another, the outermost counts."""
DTYPES = {"float": "fp32", "c10::Half": "fp16", "c10::BFloat16": "bf16"}
"""Types as the profiler writes them."""
WORDS = {"conv": (), "linear": ("addmm", "mm"), "add": ("add",), "pool": ("mean", "max", "avg")}
"""What the names of kernels that compute such a layer hold: ``cpp_fused_add_relu_2``, ``aoti_torch_cpu_addmm_out``."""
UNSEEN = "unknown"


def calls(run: Callable[[], object]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Operators with weights that a run calls: conv or linear, the floats that they get, the shape of the weight."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = [event for event in json.loads(path.read_bytes())["traceEvents"] if event.get("cat") == "cpu_op"]
    found, end = [], float("-inf")
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        kind = next((kind for kind, names in CALLED.items() if event["name"] in names), None)
        if kind and event["ts"] >= end:
            end = event["ts"] + event["dur"]
            types, shapes = event["args"]["Input type"], event["args"]["Input Dims"]
            place = 2 if event["name"] == "aten::addmm" else 1
            shape = tuple(shapes[place]) if kind == "conv" else tuple(sorted(shapes[place]))
            found.append((kind, DTYPES.get(types[place], types[place]), shape))
    return found


def precisions(
    layers: Sequence[Mapping[str, Any]], called: Sequence[tuple[str, str, tuple[int, ...]]], kernels: Mapping[str, Any]
) -> tuple[LayerPrecision, ...]:
    """The precision of each layer: by its call, or, if that isn't seen, by the kernels that compute such layers.

    Args:
        layers: ``layer``, ``op`` and, where it has a weight, its ``shape``, in order of execution.
        called: by the run; calls with weights of one shape come in the layers' order.
        kernels: floats of each generated kernel.
    """
    left = list(called)
    rows = []
    for layer in layers:
        op, precision = layer["op"], UNSEEN
        if op in CALLED:
            shape = tuple(layer["shape"]) if op == "conv" else tuple(sorted(layer["shape"]))
            match = next((call for call in left if (call[0], call[2]) == (op, shape)), None)
            if match:
                left.remove(match)
                precision = match[1]
        if precision == UNSEEN:
            kept = (build.floats_of(kernels, word) for word in WORDS[op])
            precision = next((kind for kind in kept if kind), UNSEEN)
        rows.append(LayerPrecision(layer["layer"], op, precision))
    return tuple(rows)


def counts(called: Sequence[tuple[str, str, tuple[int, ...]]], kernels: Mapping[str, Any]) -> dict[str, int]:
    """How many layers PyTorch's own operators are seen to compute, by kind and floats, and the other kernels."""
    found = Counter(f"{kind} {floats}" for kind, floats, _ in called)
    found.update("matrix product" if name.startswith("aoti") else "generated kernel" for name in kernels)
    return dict(sorted(found.items()))
