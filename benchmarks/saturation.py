"""What saturating kernels cost, and what the ISA guard gives back: two ResNet-20 in INT8 on an x86 without VNNI.

    python benchmarks/saturation.py ../shared/data [--images 200] [--observer mse]

One was fine-tuned on CIFAR-10, the other comes with rescompress. For each and each runtime, two files, made for a
processor with VNNI (plain) and for one without (guarded), run on this processor and on an emulated Haswell (AVX2, no
VNNI) where ``qemu-x86_64`` is installed. SQNR is that of the logits against FP32 and, as exactness, against eager
fake-quant of the same file: what the integer kernels add to rounding. The simulation of saturating kernels that the
guard goes by stands beside them. Results: ``results/saturation.json``.
"""

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import published
import torch
from torch import fx, nn

import rescompress
from rescompress import data, models
from rescompress.context import Context
from rescompress.metrics import sqnr_db
from rescompress.quantization import saturation

EMULATOR = ("qemu-x86_64", "-cpu", "Haswell")
FILES = {"plain": "vnni", "guarded": "avx2"}
RUNNERS = {
    "onnxruntime": """
import sys, numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
np.save(sys.argv[3], session.run(None, {"images": np.load(sys.argv[2])})[0])
""",
    "openvino": """
import sys, numpy as np, openvino
core = openvino.Core()
settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
model = core.compile_model(core.read_model(sys.argv[1]), "CPU", settings)
np.save(sys.argv[3], model.create_infer_request().infer({0: np.load(sys.argv[2])})[0])
""",
}


def logits(runtime: str, file: Path, images: Path, emulated: bool) -> np.ndarray[Any, Any]:
    """What a file gives in a fresh process, on this processor or an emulated one."""
    made = images.with_name("logits.npy")
    command = [*(EMULATOR if emulated else ()), sys.executable, "-c", RUNNERS[runtime]]
    subprocess.run([*command, str(file), str(images), str(made)], check=True, stderr=subprocess.DEVNULL)
    return np.load(made)


def networks(folder: Path) -> Iterator[tuple[str, nn.Module, Context]]:
    """Each network's name, itself and its images."""
    model = rescompress.load(folder / "weights" / "cifar10_resnet20_jpegft.th").eval()
    yield "ResNet-20, fine-tuned", model, Context.of(model, "cifar10", root=str(folder / "cifar10"))
    model = rescompress.load("digits_resnet20").eval()
    yield "ResNet-20 of digits", model, Context.of(model, "digits")


def measured(asked: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """A row for each network, runtime and file."""
    rows = []
    for network, model, context in networks(asked.folder):
        steps = data.batches(context.images("measure").test, models.spec_of(model).preprocessing, 50, asked.images)
        images = torch.cat([part for part, _ in steps])
        np.save(work / "images.npy", images.numpy())
        reference = models.predict(model, [images]).numpy()
        for runtime, (name, cpu) in itertools.product(RUNNERS, FILES.items()):
            fused = rescompress.fuse(model, context)
            q = rescompress.quantize(fused, context, runtime=runtime, cpu=cpu, observer=asked.observer)
            assert isinstance(q, fx.GraphModule)
            made = rescompress.export(q, runtime, work / f"{len(rows)}")
            eager = models.predict(q, [images]).numpy()
            row: dict[str, Any] = {"network": network, "runtime": runtime, "file": name}
            row |= {"eager": sqnr_db(reference, eager), "simulated": saturation.sqnr_db(q, images)}
            for place in ("here", "without VNNI"):
                if place != "here" and shutil.which(EMULATOR[0]) is None:
                    print("Skipped the emulated processor: qemu-x86_64 isn't installed.")
                    continue
                seen = logits(runtime, made.folder / made.manifest.entry, work / "images.npy", place != "here")
                row |= {place: sqnr_db(reference, seen), f"{place}, exactness": sqnr_db(eager, seen)}
            print(row, flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Measure, and write the rows with the machine beside them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds weights/ and cifar10/")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--observer", default="mse")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(asked, Path(folder))
    said = {"images": asked.images, "observer": asked.observer}
    published.write("saturation", {"rows": rows, **said, **published.here()})


if __name__ == "__main__":
    main()
