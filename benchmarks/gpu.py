"""On a GPU: eager PyTorch, Inductor and Inductor in a CUDA graph, in FP32, FP16 and BF16, against the GPU's roofline.

    python benchmarks/gpu.py [--networks resnet18,resnet50] [--batches 1,8,64,256] [--launches 5]

Weights are random: this is about time. Each file is verified on noise against eager FP32 first. All nine of a network
and batch are timed in one interleaved run of fresh processes, eager FP32 being the baseline. End to end is the host's
clock, from images in the host's memory to logits there; compute is the median of CUDA events around the kernels,
transfers left out. FP32 is FP32: TF32 is off. The roof is the time that the network would take if each layer ran at the
GPU's own measured matrix product in that precision or at its own measured bandwidth, whichever is slower: weights read
once, each output written and read once. Clocks, power, temperature and throttling are NVML's, sampled meanwhile.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import published
import torch
from torch import nn

import rescompress
from rescompress import models
from rescompress.context import Context

NO_GPU = "There is no CUDA GPU here: run this where PyTorch sees one (torch.cuda.is_available())."
FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MODES: dict[str, tuple[str, tuple[str, ...]]] = {
    "eager": ("eager", ()),
    "inductor": ("inductor", ("batch",)),
    "cuda graph": ("inductor", ("batch", "cuda_graphs")),
}
"""By name: the backend, and which of its knobs are set beside the floats and the device."""
SIDE = {"cuda": 8192, "cpu": 256}
"""Of the square matrices whose product shows the peak."""
COPIED = {"cuda": 2**30, "cpu": 2**24}
"""Bytes of the copy that shows the bandwidth: more than any cache holds."""
REPEATS = 10


@dataclass(frozen=True)
class Plan:
    """What is measured where.

    Attributes:
        device: ``cuda``; ``cpu`` shows that the script runs, and no more.
        networks: name, and family and architecture.
        timing: knobs of ``rescompress.benchmark``.
    """

    device: str
    networks: dict[str, tuple[str, str]]
    batches: Sequence[int]
    floats: Sequence[str]
    modes: Sequence[str]
    timing: dict[str, Any]


def seconds(device: str, work: Callable[[], object]) -> float:
    """The fastest of several calls, by the device's own clock where it has one."""
    taken = []
    for turn in range(REPEATS + 3):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            torch.cuda.synchronize()
            took = begin.elapsed_time(end) / 1e3
        else:
            started = time.perf_counter()
            work()
            took = time.perf_counter() - started
        if turn >= 3:
            taken.append(took)
    return min(taken)


def peaks(device: str, floats: Sequence[str]) -> dict[str, Any]:
    """Billions of multiply-accumulates a second of a large product in each precision, and of bytes of a copy."""
    n, found = SIDE[device], {}
    for name in floats:
        a, b = (torch.randn(n, n, device=device).to(FLOATS[name]) for _ in range(2))
        out = torch.empty_like(a)
        found[name] = n**3 / seconds(device, lambda a=a, b=b, out=out: torch.mm(a, b, out=out)) / 1e9
    source = torch.zeros(COPIED[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {"gmacs": found, "bandwidth_gbs": 2 * COPIED[device] / seconds(device, lambda: target.copy_(source)) / 1e9}


def roof_ms(model: nn.Module, batch: int, floats: str, of: dict[str, Any]) -> float:
    """The least time of one batch: each layer at the peak or at the bandwidth, whichever is slower."""
    size, least = FLOATS[floats].itemsize, 0.0
    for layer in rescompress.layer_costs(model):
        moved = size * (layer.params + 2 * batch * int(np.prod(layer.output_shape)))
        least += max(batch * layer.macs / of["gmacs"][floats], moved / of["bandwidth_gbs"]) / 1e6
    return least


def made(model: nn.Module, batch: int, plan: Plan, place: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Each mode and precision: its folder, and how near it is to eager FP32."""
    found = {}
    for mode in plan.modes:
        backend, wanted = MODES[mode]
        knobs = {"device": plan.device, **{name: {"batch": batch, "cuda_graphs": True}[name] for name in wanted}}
        for floats in plan.floats:
            folder = place / f"{mode}-{floats}".replace(" ", "-")
            rescompress.export(model, backend, folder, floats=floats, **knobs)
            row = rescompress.verify(folder, model, None)
            found[mode, floats] = {"folder": folder, "sqnr_db": row.sqnr_db, "failures": row.failures}
    return found


def timed(name: str, batch: int, plan: Plan, of: dict[str, Any]) -> dict[str, Any]:
    """All files of one network and batch, side by side."""
    family, architecture = plan.networks[name]
    whole = models.build(models.spec(family, architecture, 1000), 0)
    model = rescompress.fuse(whole, Context())
    ring = np.random.default_rng(0).standard_normal((64 + batch, *models.spec_of(whole).input_shape), np.float32)
    with tempfile.TemporaryDirectory() as place:
        files = made(model, batch, plan, Path(place))
        found, _ = rescompress.benchmark([file["folder"] for file in files.values()], ring, batch=batch, **plan.timing)
    rows = []
    for ((mode, floats), file), row in zip(files.items(), found.latencies, strict=True):
        roof = roof_ms(model, batch, floats, of)
        rows.append({
            "network": name, "batch": batch, "mode": mode, "floats": floats, "sqnr_db": file["sqnr_db"],
            "failures": file["failures"], "end_to_end_ms": [row.p50_ms, row.p50_low_ms, row.p50_high_ms],
            "compute_ms": row.compute_p50_ms, "images_per_s": 1e3 * batch / row.p50_ms,
            "ratio": [row.ratio, row.ratio_low, row.ratio_high], "roof_ms": roof,
            "of_roof": roof / (row.compute_p50_ms or row.p50_ms), "energy_mj": row.energy_mj,
            "peak_device_bytes": row.cold.peak_device_bytes,
        })  # fmt: skip
    facts = {"verdict": found.verdict, "reasons": found.reasons, "conditions": found.conditions}
    return {"rows": rows, "run": {"network": name, "batch": batch, "noise_floor": found.noise_floor, **facts}}


def measured(plan: Plan) -> dict[str, Any]:
    """Everything that a plan asks for."""
    of, runs = peaks(plan.device, plan.floats), []
    for name in plan.networks:
        for batch in plan.batches:
            print(f"{name}, batch {batch}", file=sys.stderr, flush=True)
            runs.append(timed(name, batch, plan, of))
    rows = [row for one in runs for row in one["rows"]]
    device = torch.cuda.get_device_name() if plan.device == "cuda" else "CPU"
    return {"device": device, "peaks": of, "rows": rows, "runs": [one["run"] for one in runs]}


def main() -> None:
    """Measure on the GPU, and write the rows; refuse where there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet18,resnet50")
    parser.add_argument("--batches", default="1,8,64,256")
    parser.add_argument("--launches", type=int, default=5)
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(NO_GPU)
    networks = {name: ("torchvision", name) for name in asked.networks.split(",")}
    batches = [int(batch) for batch in asked.batches.split(",")]
    plan = Plan("cuda", networks, batches, tuple(FLOATS), tuple(MODES), {"launches": asked.launches})
    published.write("gpu", {**measured(plan), **published.here()})


if __name__ == "__main__":
    main()
