"""What AdaRound gains over rounding to nearest, with 4-bit weights and with INT8, on real networks.

    python benchmarks/rounding.py ../shared/data [--networks resnet20_jpegft,resnet56] [--bits w4,w4a8,w8a8]
                                  [--images 10000] [--options '{"steps": 500}']

All weights are quantized, also those of the first and the last layer, one scale per output channel. Nearest is measured
twice: with the scale that reaches the largest magnitude (``minmax``), and with that of least squared error (``mse``),
which AdaRound starts from. Activations (``a8``) are INT8 under ONNX Runtime's scheme, ranges by percentile. Everything
runs in eager PyTorch; CIFAR-10's networks learn on JPEG train images and are judged on JPEG test images. Accuracies are
compared with those of the float network, paired on the same images. Each row is added to ``results/rounding.json`` with
the machine beside it.
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
from torch import fx

import rescompress
from rescompress import backends, data, fakequant, graph, models
from rescompress.context import Context
from rescompress.data import Split
from rescompress.placement import place
from rescompress.quantization.calibration import gather
from rescompress.quantization.observers import percentile
from rescompress.quantization.ranges import set_ranges, set_weights
from rescompress.quantization.rounding import AdaRound, adaround

SCHEME = backends.get("onnxruntime").SCHEME
BITS: dict[str, dict[str, Any]] = {
    "w4": {"precision": "w4"},
    "w4a8": {"precision": "int8", "weight_bits": 4},
    "w8a8": {"precision": "int8"},
}


def quantized(model: torch.nn.Module, bits: str, shown: list[torch.Tensor]) -> fx.GraphModule:
    """The network with fake-quants, ranges set, weights as they were."""
    traced = graph.capture(graph.clone(model).eval(), models.spec_of(model).input_shape)
    sites = place(traced, SCHEME, **BITS[bits])
    statistics = gather(traced, shown, {site.quantizer for site in sites if not site.is_weight})
    fakequant.insert(traced, sites)
    histograms = {site.quantizer: statistics.histogram(site.quantizer) for site in sites if not site.is_weight}
    set_ranges(traced, histograms, percentile.ranges_of)
    return traced


def chosen(count: int, wanted: int) -> list[int]:
    """So many images by chance, always the same; or all."""
    rows: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:wanted].tolist()
    return rows


@torch.no_grad()
def logits(traced: fx.GraphModule, split: Split, preprocessing: Any, count: int) -> np.ndarray[Any, Any]:
    """What the network answers to so many images of a split."""
    rows = chosen(len(split), count)
    answers = [
        traced(data.normalize(split.read(rows[start : start + 50]), preprocessing)) for start in range(0, len(rows), 50)
    ]
    return torch.cat(answers).numpy()


def measured(name: str, bits: str, asked: argparse.Namespace, work: Path) -> dict[str, Any]:
    """A row: nearest with both scales, AdaRound, each against the float network."""
    network = networks.NETWORKS[name]
    model = rescompress.fuse(rescompress.load(networks.weights(network, asked.folder, work)), Context())
    preprocessing = models.spec_of(model).preprocessing
    kind = "photos" if network.images == "photos" else "jpeg"
    calibration, test = networks.splits(kind, asked.folder, model)
    count = networks.CALIBRATING[kind]
    shown = [images for images, _ in data.batches(calibration, preprocessing, 32, count)]
    traced = quantized(model, bits, shown)
    labels = test.labels.numpy()[chosen(len(test), asked.images)]
    with fakequant.passing(traced):
        reference = logits(traced, test, preprocessing, asked.images)
    found = {"nearest minmax": logits(traced, test, preprocessing, asked.images)}
    set_weights(traced, "mse")
    found["nearest mse"] = logits(traced, test, preprocessing, asked.images)
    begin, busy = time.monotonic(), time.process_time()
    options = AdaRound(**json.loads(asked.options))
    notes = adaround(traced, shown, options)
    seconds = {"wall_s": round(time.monotonic() - begin, 1), "cpu_s": round(time.process_time() - busy, 1)}
    found["adaround"] = logits(traced, test, preprocessing, asked.images)
    judged = {way: paired.judge(reference, answers, labels).row() for way, answers in found.items()}
    gained = {
        f"gain over {way}": paired.judge(found["adaround"], found[way], labels).row()
        for way in ("nearest minmax", "nearest mse")
    }
    gained = {way: {"points": row["drop"], "low": row["low"], "high": row["high"]} for way, row in gained.items()}
    row = {
        "network": name, "bits": bits, "images": len(labels), "calibration_images": count, **judged, **gained,
        "options": vars(options), "notes": notes, **seconds,
    }  # fmt: skip
    print(json.dumps(row, indent=2), flush=True)
    return row


def main() -> None:
    """Measure what is asked, and put the rows in the place of those before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds weights/, cifar10/ and imagenet/")
    parser.add_argument("--networks", default="resnet20_jpegft,resnet56")
    parser.add_argument("--bits", default="w4,w4a8")
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--options", default="{}", help="AdaRound's knobs, as JSON")
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
