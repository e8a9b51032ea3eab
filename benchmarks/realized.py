"""How much of a cut in MACs becomes speed: ResNet-18 and -50 at 224 pixels, ONNX Runtime and OpenVINO, FP32 and INT8.

    python benchmarks/realized.py ../shared/data [--shares 0.7,0.5] [--round-to 16]

Realized is the speed-up divided by the reduction of MACs: 1 means that every multiply saved is time saved. All models
of a network are timed in one run, interleaved, one thread, batch 1; their weights are real, nothing is trained
afterwards, so only latency is told. OpenVINO reads the same ONNX files. Results: ``results/realized.json``.
"""

import argparse
import csv
import io
import lzma
import random
import statistics
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import published
import torch
from PIL import Image
from torch import nn

import rescompress
from rescompress.context import Context
from rescompress.data import Data, InMemory

NETWORKS = ("resnet18", "resnet50")
ROUNDS, BLOCK_S = 20, 0.1


def exported(model: nn.Module, place: Path, context: Context) -> dict[str, Path]:
    """The model's ONNX files, in FP32 and in INT8."""
    made = {"fp32": place / "fp32", "int8": place / "int8"}
    rescompress.export(model, "onnx", made["fp32"])
    quantized = rescompress.quantize(rescompress.fuse(model, Context()), context)
    rescompress.export(quantized, "onnx", made["int8"])
    return {precision: folder / "model.onnx" for precision, folder in made.items()}


def calibration(packed: Path) -> Context:
    """The first 32 photos of the archive, in the middle 224 pixels."""
    with zipfile.ZipFile(packed) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("labels.csv").decode("utf-8"))))[:32]
        photos = [
            Image.open(io.BytesIO(archive.read(row["file"]))).convert("RGB").crop((16, 16, 240, 240)) for row in rows
        ]
    images = torch.from_numpy(np.stack([np.asarray(photo) for photo in photos])).permute(0, 3, 1, 2).contiguous()
    split = InMemory(images, torch.tensor([int(row["label"]) for row in rows]))
    return Context(Data("photos", tuple(f"class {k}" for k in range(1000)), split, split, split, "photos"))


def onnxruntime_(file: Path) -> Callable[[np.ndarray[Any, Any]], Any]:
    """A session of ONNX Runtime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def openvino_(file: Path) -> Callable[[np.ndarray[Any, Any]], Any]:
    """A compiled model of OpenVINO on one thread."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = core.read_model(file)
    model.reshape([1, 3, 224, 224])
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    return lambda images: request.infer({0: images})


def interleaved(sessions: Sequence[Callable[[np.ndarray[Any, Any]], Any]]) -> list[float]:
    """Median of the blocks' medians of each session, in milliseconds; blocks in random order."""
    images = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    blocks: list[list[float]] = [[] for _ in sessions]
    order = random.Random(0)
    for turn in range(ROUNDS + 2):
        for i in order.sample(range(len(sessions)), len(sessions)):
            taken, end = [], time.perf_counter() + BLOCK_S
            while time.perf_counter() < end or len(taken) < 3:
                begin = time.perf_counter()
                sessions[i](images)
                taken.append(1e3 * (time.perf_counter() - begin))
            if turn >= 2:
                blocks[i].append(statistics.median(taken))
    return [statistics.median(block) for block in blocks]


def measured(name: str, asked: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """A row per runtime, precision and share of one network."""
    weights = work / f"{name}.pth"
    source = asked.folder / "weights"
    file = next(source.glob(f"{name}_imagenet*.pth.xz"))
    weights.write_bytes(lzma.decompress(file.read_bytes()))
    whole = rescompress.load(weights)
    images = calibration(asked.folder / "imagenet" / "nips2017_dev1000_256px_q95.zip")
    shares = [float(share) for share in asked.shares.split(",")]
    models = [whole, *(rescompress.prune(whole, Context(), macs=share, round_to=asked.round_to) for share in shares)]
    macs = [rescompress.total_cost(model).macs for model in models]
    files = [exported(model, work / f"{name}-{i}", images) for i, model in enumerate(models)]
    rows = []
    for runtime, opening in (("onnxruntime", onnxruntime_), ("openvino", openvino_)):
        for precision in ("fp32", "int8"):
            taken = interleaved([opening(found[precision]) for found in files])
            for share, mac, ms in zip(shares, macs[1:], taken[1:], strict=True):
                row = {
                    "network": name, "runtime": runtime, "precision": precision,
                    "asked": share, "round_to": asked.round_to, "macs": round(mac / macs[0], 4),
                    "whole_ms": taken[0], "ms": ms, "latency": round(ms / taken[0], 4),
                    "realized": round((taken[0] / ms) / (macs[0] / mac), 4),
                }  # fmt: skip
                print(row)
                rows.append(row)
    return rows


def main() -> None:
    """Measure all networks, and write the rows with the machine beside them."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds weights/")
    parser.add_argument("--shares", default="0.7,0.5")
    parser.add_argument("--round-to", type=int, default=16)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [row for name in asked.networks.split(",") for row in measured(name, asked, Path(folder))]
    rows = [{**row, **published.here()} for row in found]
    kept = published.replaced(published.read("realized").get("rows", []), rows, "network")
    published.write("realized", {"rows": kept})


if __name__ == "__main__":
    main()
