"""What INT8 costs ImageNet's networks on all 1,000 photos: each fifth calibrates once, and the others judge.

    python benchmarks/photos.py ../shared/data [--networks resnet18,resnet50]

A single split of 200 photos to calibrate and 800 to judge hangs on a handful of photos; each network is quantized five
times instead, with default settings for each runtime, and its artifact is judged in that runtime by the 800 photos that
it wasn't calibrated on, paired with FP32 in the same runtime. A photo is judged four times, and its four outcomes are
no four photos: the interval is that of 1,000 means. Agreement is over all five times 800 answers.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import published
import torch
from peers import networks, paired
from peers.networks import Array
from peers.player import Player
from peers.table import RUNTIMES

import rescompress
from rescompress import models
from rescompress.context import Context
from rescompress.data import Data, InMemory

SPLITS = 5


def logits(runtime: str, file: Path, work: Path) -> Array:
    """What an artifact answers to all photos."""
    with Player(runtime, file, networks.BATCHES["photos"]) as player:
        player.ask(do="logits", images=str(work / "photos.npy"), limit=None, out=str(work / "logits.npy"))
    return np.load(work / "logits.npy")  # type: ignore[no-any-return]


def measured(name: str, folder: Path, work: Path) -> list[dict[str, Any]]:
    """A row for each runtime."""
    model = rescompress.load(networks.weights(networks.NETWORKS[name], folder, work))
    images, labels = networks.photos(folder / networks.PHOTOS)
    whole, split = InMemory(images, labels), np.arange(len(images)) * SPLITS // len(images)
    np.save(work / "photos.npy", networks.inputs(whole, model))
    classes = tuple(f"class {k}" for k in range(models.spec_of(model).classes))
    fused = rescompress.fuse(model, Context())
    exact = rescompress.export(fused, "onnx", work / "fp32")
    reference = {runtime: logits(runtime, exact.folder / exact.manifest.entry, work) for runtime in RUNTIMES}
    found: dict[str, list[Array]] = {runtime: [] for runtime in RUNTIMES}
    for place in range(SPLITS):
        own = torch.from_numpy(split == place)
        some = InMemory(images[own], labels[own])
        ctx = Context(Data("photos", classes, some, some, some, f"photos {place}"), reference=model)
        for runtime in RUNTIMES:
            knobs: dict[str, Any] = {"runtime": runtime, "calibration_images": len(some)}
            quantized = rescompress.quantize(fused, ctx, **knobs)
            made = rescompress.export(quantized, runtime, work / f"{runtime}-{place}")
            found[runtime].append(logits(runtime, made.folder / made.manifest.entry, work))
    return [
        {"network": name, "runtime": one, **judged(reference[one], found[one], labels.numpy(), split)}
        for one in RUNTIMES
    ]


def judged(reference: Array, found: list[Array], labels: Array, split: Array) -> dict[str, Any]:
    """Points lost with their interval over photos, and those of each split.

    Args:
        reference: FP32's logits ``[n, classes]``.
        found: those of each split's artifact.
        labels: ``[n]``.
        split: which split calibrated on a photo ``[n]``.
    """
    before = paired.right(reference, labels).astype(float)
    lost = np.stack([100 * (before - paired.right(one, labels)) for one in found])
    same = np.stack([100.0 * (one.argmax(1) == reference.argmax(1)) for one in found])
    kept = np.stack([split != place for place in range(len(found))])
    mean = (lost * kept).sum(0) / kept.sum(0)
    half = 1.96 * mean.std(ddof=1) / np.sqrt(len(mean))
    drop = {"drop": mean.mean(), "low": mean.mean() - half, "high": mean.mean() + half}
    values = {"accuracy": 100 * before.mean(), **drop, "agreement": same[kept].mean()}
    each = [round(float(one[apart].mean()), 3) for one, apart in zip(lost, kept, strict=True)]
    return {**{key: round(float(value), 3) for key, value in values.items()}, "each": each}


def main() -> None:
    """Measure what is asked, and put the rows in the place of those before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds weights/ and imagenet/")
    parser.add_argument("--networks", default="resnet18,resnet50")
    asked = parser.parse_args()
    for name in asked.networks.split(","):
        with tempfile.TemporaryDirectory() as work:
            fresh = [{**row, **published.here()} for row in measured(name, asked.folder, Path(work))]
        print(*fresh, sep="\n", flush=True)
        rows = published.replaced(published.read("photos").get("rows", []), fresh, "network", "runtime")
        published.write("photos", {"rows": rows})


if __name__ == "__main__":
    main()
