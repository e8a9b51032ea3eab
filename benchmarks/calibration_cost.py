"""What calibrating ResNet-50 at 224 pixels costs: seconds and peak memory, ours beside its peers.

    python benchmarks/calibration_cost.py ../shared/data [--images 32,128,512] [--cpus 1] [--cap-gb 8]
        [--python nncf=PATH] [--python modelopt=PATH] [--python inc=PATH] [--only ours,nncf]

Each calibration is a process of its own on the same CPUs, imports included. Ours watches every value that any runtime's
scheme may ask for, from the photos' JPEGs to a file of statistics; peers go from normalized images in memory (0.6 MB
each) and an FP32 ONNX file to their INT8 model, since none of them keeps a calibration. What that file costs has a row
of its own, and is added to theirs where the whole way from the checkpoint is compared. A process that would pass the
cap on its address space dies, and its row says so. A peer that isn't installed is left out by name. Results:
``results/calibration_cost.json``.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import published
from peers import networks, tools

import rescompress
from rescompress import data, models
from rescompress.context import Context
from rescompress.data import InMemory

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "benchmarks" / "peers"
NETWORK = networks.NETWORKS["resnet50"]
TOOLS = {
    "ours": ("rescompress, all values", "calibrating", "ours", ""),
    "export": ("FP32 ONNX, for the others", "exporting", "ours", "-"),
    "nncf": ("NNCF on OpenVINO", "nncf_openvino", "nncf", "performance"),
    "nncf_onnx": ("NNCF on ONNX", "nncf_onnx", "nncf", "performance"),
    "minmax": ("ORT min-max", "ort_static", "ort", "minmax"),
    "entropy": ("ORT entropy", "ort_static", "ort", "entropy"),
    "percentile": ("ORT percentile", "ort_static", "ort", "percentile"),
    "modelopt": ("ModelOpt, entropy", "modelopt_onnx", "modelopt", "entropy"),
    "inc": ("Neural Compressor 2.6", "inc_onnx", "inc", "default"),
}
"""Name of the rows, script in ``peers/``, which interpreter runs it, and what it is asked for."""


def measure(asked: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """A row per tool and number of images; the tools take turns, so that all meet the same neighbours."""
    weights, packed = networks.weights(NETWORK, asked.folder, work), asked.folder / networks.PHOTOS
    model = rescompress.load(weights)
    rescompress.export(rescompress.fuse(model, Context()), "onnx", work / "fp32")
    pixels, labels = networks.photos(packed)
    pythons = dict(pair.split("=", 1) for pair in asked.python)
    rows = []
    for count in map(int, asked.images.split(",")):
        steps = data.batches(InMemory(pixels, labels), models.spec_of(model).preprocessing, 32, count)
        np.save(work / "images.npy", np.concatenate([images.numpy() for images, _ in steps]))
        for key in asked.only.split(","):
            name, script, interpreter, variant = TOOLS[key]
            place = work / f"{key}-{count}"
            place.mkdir()
            given = (weights, packed) if interpreter == "ours" else (work / "fp32" / "model.onnx", work / "images.npy")
            python = pythons.get(interpreter, sys.executable)
            command = [python, SCRIPTS / f"{script}.py", *given, place, variant or count]
            cost = tools.run(command, asked.cap_gb, asked.cpus)
            cost.pop("entry", None)
            if str(cost.get("died")).startswith("ModuleNotFoundError"):
                print(f"{name} is left out: {cost['died']}", flush=True)
                continue
            row = {"tool": name, "images": count, "cpus": asked.cpus, "cap_gb": asked.cap_gb, **cost}
            print(row, flush=True)
            rows.append({**row, **published.here()})
    return rows


def main() -> None:
    """Measure, and write the rows with the machine beside them; rows of other sizes and tools are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds weights/ and imagenet/")
    parser.add_argument("--images", default="32,128,512")
    parser.add_argument("--only", default=",".join(TOOLS))
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--cap-gb", type=float, default=8.0)
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="of nncf, modelopt, inc")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(asked, Path(folder))
    rows = published.replaced(published.read("calibration_cost").get("rows", []), rows, "tool", "images", "cpus")
    rows.sort(key=lambda row: (row["tool"], row["images"], row["cpus"]))
    published.write("calibration_cost", {"rows": rows})


if __name__ == "__main__":
    main()
