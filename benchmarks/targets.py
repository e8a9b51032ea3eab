"""Every network to every target in FP32, FP16 and INT8: exported, audited, verified where it runs; docs/targets.md.

    python benchmarks/targets.py ../shared/data [--networks resnet20_jpegft,resnet56,resnet18,resnet50] [--targets ...]

Each export has a process of its own, so that its time and its peak memory are its own. CIFAR networks are judged by
2,000 test images, the others by 200 photos, for the interpreters are slow.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import published
import torch
from peers.networks import CALIBRATING, NETWORKS, splits, weights

import rescompress
from rescompress import backends, models
from rescompress.artifact import open_artifact
from rescompress.context import Context
from rescompress.data import Data, InMemory
from rescompress.errors import RescompressError

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "targets.md"
START, END = "<!-- table: written by benchmarks/targets.py -->", "<!-- end of table -->"
JUDGING = {"jpeg": 2000, "lossless": 2000, "photos": 200}
EQUAL = 999
"""Decibels of answers that are equal to the last bit."""
PRECISIONS = ("fp32", "fp16", "int8")
COLUMNS = (
    *("target", "precision", "rung", "top-1", "agrees with eager", "SQNR", "INT8 convs, adds", "file", "of FP32"),
    *("export", "peak memory"),
)
DEFAULT = "resnet20_jpegft,resnet56,resnet18,resnet50"


@dataclass(frozen=True)
class Subject:
    """One network, whole and quantized, with the images that judge it."""

    name: str
    place: Path
    images: Data

    def checkpoint(self, backend: str, precision: str) -> Path:
        """The file that is exported: in FP32, or in INT8 by the backend's scheme."""
        scheme = backends.get(backend).SCHEME
        return (
            self.place / f"{scheme.runtime if scheme else 'onnxruntime'}.safetensors"
            if precision == "int8"
            else self.float
        )

    @property
    def float(self) -> Path:
        """The network with its BatchNorms folded."""
        return self.place / "float.safetensors"


def prepared(name: str, folder: Path, place: Path) -> Subject:
    """Fold, calibrate once, and quantize for each scheme; what is there already is taken."""
    network = NETWORKS[name]
    place.mkdir(parents=True, exist_ok=True)
    whole = rescompress.load(weights(network, folder, place))
    calibration, test = splits(network.images, folder, whole)
    few = range(JUDGING[network.images])
    judged = InMemory(test.read(few), test.labels[: len(few)])
    classes = tuple(map(str, range(models.spec_of(whole).classes)))
    images = Data(name, classes, judged, calibration, judged, name)
    subject = Subject(name, place, images)
    ctx = Context(images, 0)
    if not subject.float.exists():
        rescompress.save(rescompress.fuse(whole, ctx), subject.float)
    model = rescompress.load(subject.float)
    seen = place / "calibration.safetensors"
    for runtime in dict.fromkeys(scheme.runtime for one in backends.names() if (scheme := backends.get(one).SCHEME)):
        file = place / f"{runtime}.safetensors"
        if not file.exists():
            rescompress.calibrate(model, ctx, seen, calibration_images=CALIBRATING[network.images])
            rescompress.save(rescompress.quantize(model, ctx, runtime=runtime, calibration=seen), file)
    return subject


def export_alone(checkpoint: Path, backend: str, floats: str, folder: Path) -> dict[str, Any]:
    """Export in a process of its own: seconds and peak memory, or the sentence by which it was refused."""
    command = [sys.executable, __file__, "--export", str(checkpoint), backend, floats, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    lines = done.stdout.strip().splitlines()
    return dict(json.loads(lines[-1])) if lines else {"refused": f"died: {done.stderr.strip().splitlines()[-1][:200]}"}


def child(checkpoint: str, backend: str, floats: str, folder: str) -> None:
    """What that process does."""
    model = rescompress.load(checkpoint)
    started = time.monotonic()
    try:
        rescompress.export(model, backend, folder, floats=floats)
    except RescompressError as error:
        print(json.dumps({"refused": error.fact}))
        return
    print(json.dumps({"seconds": round(time.monotonic() - started, 1), "peak_mb": _peak_mb()}))


def _peak_mb() -> int | None:
    """Most memory that this process ever held, in MB; what getrusage tells begins with the parent's."""
    status = Path("/proc/self/status")
    lines = status.read_text("utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 // 10**6 for line in lines if line.startswith("VmHWM")), None)


def measured(subject: Subject, backend: str, precision: str) -> dict[str, Any]:
    """One artifact: what exporting took, what it weighs, what it was found to compute."""
    floats = "fp16" if precision == "fp16" or (precision == "int8" and backend == "tensorrt") else "fp32"
    folder = subject.place / "artifacts" / f"{backend}-{precision}"
    source = subject.checkpoint(backend, precision)
    row = {"network": subject.name, "backend": backend, "precision": precision}
    row |= export_alone(source, backend, floats, folder)
    if "refused" in row:
        return row
    try:
        found = rescompress.verify(folder, rescompress.load(source), subject.images)
        report = rescompress.audit(folder)
    except RescompressError as error:
        return row | {"refused": error.fact}
    shares = {op: report.int8_share(op) for op in ("conv", "add")}
    highest, hindrance = backends.get(backend).rung()
    return row | {
        "size_bytes": open_artifact(folder).size_bytes,
        "accuracy": vars(found.accuracy),
        "reference": vars(found.reference_accuracy),
        "sqnr_db": round(found.sqnr_db, 1) if math.isfinite(found.sqnr_db) else EQUAL,
        "agreement": vars(found.agreement),
        "failures": found.failures,
        "int8": {op: [share.correct, share.total] for op, share in shares.items()},
        "computes": sorted({layer.precision for layer in report.layers if layer.op == "conv"}),
        "rung": "L0" if found.failures else min(highest, "L2"),
        "hindrance": hindrance,
        "notes": report.notes[:6],
    }


def main() -> None:
    """Measure what is asked for, keep the other rows, and write the page's tables."""
    if sys.argv[1] == "--export":
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds cifar10/, imagenet/ and weights/")
    parser.add_argument("--networks", default=DEFAULT)
    parser.add_argument("--targets", default=",".join(backends.names()))
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in filter(None, asked.networks.split(",")):
        subject = prepared(name, asked.folder.resolve(), ROOT / "runs" / "targets" / name)
        for backend in asked.targets.split(","):
            for precision in asked.precisions.split(","):
                row = measured(subject, backend, precision)
                print(json.dumps(row, default=str), flush=True)
                rows = published.read("targets").get("rows", [])
                rows = published.replaced(rows, [{**row, **published.here()}], "network", "backend", "precision")
                published.write("targets", {"rows": rows})
    head, _, rest = PAGE.read_text("utf-8").partition(START)
    PAGE.write_text(
        f"{head}{START}\n" + "\n".join(tables(published.read("targets"))) + f"\n{END}{rest.partition(END)[2]}", "utf-8"
    )


def tables(result: dict[str, Any]) -> Iterator[str]:
    """A table per network, a row per target and precision."""
    for where in result["machines"].values():
        used = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
        cpu = f"{where['cpu']}, {where['cores']} cores ({', '.join(where['isa'])})"
        yield f"\n{cpu}; Python {where['python']}, {used}.\n"
    order = {name: place for place, name in enumerate((*backends.names(), *PRECISIONS, *DEFAULT.split(",")))}
    rows = sorted(result["rows"], key=lambda row: [order[row[key]] for key in ("network", "backend", "precision")])
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == name]
        sizes = {row["backend"]: row["size_bytes"] for row in own if row["precision"] == "fp32" and "size_bytes" in row}
        yield f"### {name}\n"
        yield "| " + " | ".join(COLUMNS) + " |"
        yield "|---" * len(COLUMNS) + "|"
        yield from (_line(row, sizes.get(row["backend"])) for row in own)
        yield ""


def _line(row: dict[str, Any], whole: int | None) -> str:
    head = f"| {row['backend']} | {row['precision'].upper()} "
    if "refused" in row:
        return f"{head}| - | {row['refused']} |  |  |  |  |  |  |  |"
    accuracy, agreement = (100 * row[key]["correct"] / row[key]["total"] for key in ("accuracy", "agreement"))
    shares = ", ".join(f"{good} of {all_}" for good, all_ in row["int8"].values())
    failed = f" ({'; '.join(row['failures'])})" if row["failures"] else ""
    peak = f"{row['peak_mb']:,} MB" if row.get("peak_mb") else "-"
    near = "equal" if row["sqnr_db"] == EQUAL else f"{row['sqnr_db']:.0f} dB"
    ratio = f"{row['size_bytes'] / whole:.3f}" if whole else "-"
    return (
        f"{head}| {row['rung']}{failed} | {accuracy:.2f} % | {agreement:.2f} % | {near} | {shares} | "
        f"{row['size_bytes'] / 1000:,.0f} kB | {ratio} | {row['seconds']:.0f} s | {peak} |"
    )


if __name__ == "__main__":
    main()
