"""What learned and solved rounding gain over rounding to nearest, with 4-bit weights, on real networks.

    python benchmarks/rounding.py ../shared/data [--networks resnet20,resnet56,resnet18] [--bits w4,w4a8,w8a8]
                                  [--images 10000] [--ways "nearest minmax,gptq"]

All weights are quantized, also those of the first and the last layer, one scale per output channel. Nearest is measured
twice: with the scale that reaches the largest magnitude (``minmax``), and with that of least squared error (``mse``),
which GPTQ and AdaRound start from. Activations (``a8``) are INT8 under ONNX Runtime's scheme. Each is what
``rescompress quantize`` makes with these knobs, so where activations are rounded, or weights by GPTQ, means and
deviations are corrected; seconds are its own, on one thread, without calibration. Everything runs in eager PyTorch;
CIFAR-10's networks look at JPEG train images and are judged on JPEG test images. Accuracies are compared with those of
the float network, paired on the same images. Each row is added to ``results/rounding.json`` with the machine beside it.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import published
import torch
from peers import networks, paired

import rescompress
from rescompress import data, models
from rescompress.context import Context
from rescompress.data import Data, Split

BITS: dict[str, dict[str, Any]] = {
    "w4": {"precision": "w4"},
    "w4a8": {"precision": "int8", "weight_bits": 4},
    "w8a8": {"precision": "int8"},
}
WAYS: dict[str, dict[str, Any]] = {
    "nearest minmax": {"rounding": "nearest", "weights": "minmax"},
    "nearest mse": {"rounding": "nearest", "weights": "mse"},
    "gptq": {"rounding": "gptq", "weights": "mse"},
    "adaround": {"rounding": "adaround", "weights": "mse"},
}


def chosen(count: int, wanted: int) -> list[int]:
    """So many images by chance, always the same; or all."""
    rows: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:wanted].tolist()
    return rows


@torch.no_grad()
def logits(model: torch.nn.Module, split: Split, count: int) -> np.ndarray[Any, Any]:
    """What a network answers to so many images of a split."""
    rows, preprocessing = chosen(len(split), count), models.spec_of(model).preprocessing
    answers = [
        model(data.normalize(split.read(rows[start : start + 50]), preprocessing)) for start in range(0, len(rows), 50)
    ]
    return torch.cat(answers).numpy()


def measured(name: str, bits: str, asked: argparse.Namespace, work: Path) -> dict[str, Any]:
    """A row: each way against the float network, and against the first way."""
    network = networks.NETWORKS[name]
    model = rescompress.fuse(rescompress.load(networks.weights(network, asked.folder, work)), Context())
    kind = "photos" if network.images == "photos" else "jpeg"
    calibration, test = networks.splits(kind, asked.folder, model)
    classes = tuple(map(str, range(models.spec_of(model).classes)))
    ctx, count = Context(Data(name, classes, test, calibration, test, name)), networks.CALIBRATING[kind]
    knobs: dict[str, Any] = {"calibration_images": count, **BITS[bits]}
    if knobs["precision"] == "int8":
        rescompress.calibrate(model, ctx, work / "seen.safetensors", calibration_images=count)
        knobs["calibration"] = work / "seen.safetensors"
    labels, reference = test.labels.numpy()[chosen(len(test), asked.images)], logits(model, test, asked.images)
    row: dict[str, Any] = {"network": name, "bits": bits, "images": len(labels), "calibration_images": count}
    first = None
    for way in asked.ways.split(","):
        begin, busy = time.monotonic(), time.process_time()
        quantized = rescompress.quantize(model, ctx, **knobs, **WAYS[way])
        seconds = {"wall_s": round(time.monotonic() - begin, 1), "cpu_s": round(time.process_time() - busy, 1)}
        found = logits(quantized, test, asked.images)
        first = found if first is None else first
        gain = paired.judge(found, first, labels).row()
        row[way] = {**paired.judge(reference, found, labels).row(), **seconds}
        row[way]["gain"] = {"points": gain["drop"], "low": gain["low"], "high": gain["high"]}
    print(json.dumps(row, indent=2), flush=True)
    return row


def main() -> None:
    """Measure what is asked, and put the rows in the place of those before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds weights/, cifar10/ and imagenet/")
    parser.add_argument("--networks", default="resnet20,resnet56,resnet18")
    parser.add_argument("--bits", default="w4,w4a8")
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--ways", default=",".join(WAYS), help="the first is what the others are compared with")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.networks.split(","):
        for bits in asked.bits.split(","):
            with tempfile.TemporaryDirectory() as work:
                row = measured(name, bits, asked, Path(work))
            rows = published.read("rounding").get("rows", [])
            rows = published.replaced(rows, [{**row, **published.here()}], "network", "bits")
            published.write("rounding", {"rows": rows})


if __name__ == "__main__":
    main()
