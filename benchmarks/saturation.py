"""What saturating kernels cost, and what the ISA guard gives back: ResNet-20 in INT8 on an x86 without VNNI.

    python benchmarks/saturation.py ../shared/data [--images 200] [--observer minmax]

The same two ONNX files, without and with the guard, run in ONNX Runtime and OpenVINO: on this processor, and on an
emulated Haswell (AVX2, no VNNI) where ``qemu-x86_64`` is installed; SQNR is that of the logits against FP32 and, as
``exactness``, against eager fake-quant of the same file: what integer kernels add to rounding. Our own simulation of
saturating kernels stands beside them. Results: ``results/saturation.json``.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

import rescompress
from rescompress import data, fakequant, graph, models
from rescompress.benchmarking import machine
from rescompress.context import Context
from rescompress.metrics import sqnr_db
from rescompress.quantization import saturation
from rescompress.quantization.guard import guard, pixel_extremes, sentence

RESULTS = Path(__file__).resolve().parent / "results" / "saturation.json"
EMULATOR = ("qemu-x86_64", "-cpu", "Haswell")
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


def extremes(traced: fx.GraphModule, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Least and largest value of each channel of each activation in the float network."""
    found: dict[str, torch.Tensor] = {}

    def seen(node: fx.Node, value: Any) -> None:
        if node.op == "call_function" and isinstance(value, torch.Tensor):
            rows = value.transpose(0, 1).flatten(1)
            now = torch.stack([rows.amin(1), rows.amax(1)], 1)
            old = found.get(graph.name_of(node), now)
            low, high = torch.minimum(old[:, 0], now[:, 0]), torch.maximum(old[:, 1], now[:, 1])
            found[graph.name_of(node)] = torch.stack([low, high], 1)

    with torch.no_grad(), fakequant.passing(traced):
        for part in images.split(64):
            graph.watch(traced, part, seen)
    return found


def logits(runtime: str, file: Path, images: Path, emulated: bool) -> np.ndarray[Any, Any]:
    """What a file gives in a fresh process, on this processor or an emulated one."""
    made = images.with_name("logits.npy")
    command = [*(EMULATOR if emulated else ()), sys.executable, "-c", RUNNERS[runtime]]
    subprocess.run([*command, str(file), str(images), str(made)], check=True, stderr=subprocess.DEVNULL)
    return np.load(made)


def measured(asked: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Rows of SQNR, and what the guard said."""
    model = rescompress.load(asked.folder / "weights" / "cifar10_resnet20_jpegft.th")
    spec, context = models.spec_of(model), Context.of(model, "cifar10", root=str(asked.folder / "cifar10"))
    splits = context.images("measure")
    images = torch.cat([part for part, _ in data.batches(splits.test, spec.preprocessing, 50, asked.images)])
    shown = torch.cat([part for part, _ in data.batches(splits.calibration, spec.preprocessing, 64, 512)])
    plain = rescompress.quantize(rescompress.fuse(model, context), context, observer=asked.observer)
    assert isinstance(plain, fx.GraphModule)
    guarded = models.describe(graph.clone(plain), spec)
    channels = {**extremes(plain, shown), graph.INPUT: pixel_extremes(spec.preprocessing)}
    layers = guard(guarded, channels, "avx2")
    np.save(work / "images.npy", images.numpy())
    with torch.no_grad():
        reference = model.eval()(images).numpy()
        eager = {name: q(images).numpy() for name, q in (("plain", plain), ("guarded", guarded))}
    rows = []
    simulated = {}
    for name, q in (("plain", plain), ("guarded", guarded)):
        rescompress.export(q, "onnxruntime", work / name)
        simulated[name] = saturation.sqnr_db(q, images)
        row = {"file": name, "fakequant": sqnr_db(reference, eager[name]), "simulated": simulated[name]}
        for runtime in RUNNERS:
            for emulated in (False, True):
                if emulated and shutil.which(EMULATOR[0]) is None:
                    print("Skipped the emulated processor: qemu-x86_64 isn't installed.")
                    continue
                seen = logits(runtime, work / name / "model.onnx", work / "images.npy", emulated)
                place = f"{runtime}{' without VNNI' if emulated else ' here'}"
                row |= {place: sqnr_db(reference, seen), f"{place}, exactness": sqnr_db(eager[name], seen)}
        print(row)
        rows.append(row)
    said = sentence(layers, simulated["plain"], simulated["guarded"]) if layers else ""
    return {"rows": rows, "said": said, "layers": [vars(layer) for layer in layers]}


def main() -> None:
    """Measure, and write the rows with the machine beside them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds weights/ and cifar10/")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--observer", default="minmax")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(asked, Path(folder))
    found |= {"images": asked.images, "observer": asked.observer, "environment": vars(machine.environment())}
    print(found["said"])
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
