"""The whole chain's front: accuracy, latency and size of recipes from the untouched network to a cut INT8 one.

    python benchmarks/pipeline.py ../shared/data [--resnet56 CHECKPOINT] [--only resnet20] [--epochs 1]
    python benchmarks/pipeline.py --quick             # the shipped digits network, a minute; prints, keeps nothing

Each recipe is one `rescompress run`: its last file is exported to ONNX, audited, and verified in ONNX Runtime on the
test images. All files are then timed in one interleaved run, one thread, batch 1; ratios are against the first recipe.
A file is on the front where no other is at least as accurate, as fast and as small, and better in one of them.
CIFAR-10's networks are ResNet-20 and a ResNet-56, both fine-tuned on its JPEG images; 5,000 of the test images judge.
Trainings are short, one epoch each unless asked otherwise: the front shows what the chain does in three quarters of an
hour on one core, not the best it can do. Without `--resnet56`, the published one is fine-tuned for one epoch first.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import front
import published
import torch
from peers.tools import slug

import rescompress
from rescompress import data, models
from rescompress.context import Context
from rescompress.errors import GateFailed

ROOT = Path(__file__).resolve().parents[1]
TEST_IMAGES = 5_000
CUT = {"importance": "taylor", "ranking": "isomorphic"}
INT8 = ["fuse", "quantize"]
TUNED = {"batch": 128, "augment": "shift+mirror", "amp": "bf16"}
Chains = dict[str, tuple[str, list[Any]]]
"""By the row's name: the checkpoint and the stages."""


def training(epochs: int, lr: float = 0.04) -> dict[str, Any]:
    """How long and how hard is trained after a cut."""
    return {"schedule": {"epochs": epochs, "lr": lr, **TUNED}}


def on_cifar10(twenty: str, fifty_six: str, epochs: int) -> Chains:
    """All recipes; the cuts leave these shares of the MACs."""

    def cut(share: float, recovery: str, round_to: int = 16) -> list[Any]:
        return [{"prune": {"macs": share, "round_to": round_to, **CUT}}, {recovery: training(epochs)}, *INT8]

    def short(share: float) -> list[Any]:
        return [{"prune": {"macs": share, "unit": "blocks"}}, {"distill": training(epochs)}, *INT8]

    low_rank = {"factorize": {"rank": "budget", "budget": 0.7, "round_to": 8}}
    teacher = {"distill": {"teacher": fifty_six, **training(epochs, 0.02)}}
    return {
        "resnet20: FP32": (twenty, ["fuse"]),
        "resnet20: INT8": (twenty, INT8),
        "resnet20: 0.7 of the MACs, fine-tuned, INT8": (twenty, cut(0.7, "fit")),
        "resnet20: 0.5 of the MACs, distilled, INT8": (twenty, cut(0.5, "distill")),
        "resnet20: 0.35 of the MACs, distilled, INT8": (twenty, cut(0.35, "distill", 8)),
        "resnet20: 0.7 of the MACs, whole blocks, distilled, INT8": (twenty, short(0.7)),
        "resnet20: low rank, 0.7 of the MACs, fine-tuned, INT8": (twenty, [low_rank, {"fit": training(epochs)}, *INT8]),
        "resnet20: taught by ResNet-56, INT8": (twenty, [teacher, *INT8]),
        "resnet56: FP32": (fifty_six, ["fuse"]),
        "resnet56: INT8": (fifty_six, INT8),
        "resnet56: 0.49 of the MACs, distilled, INT8": (fifty_six, cut(0.49, "distill")),
        "resnet56: 0.49 of the MACs, whole blocks, distilled, INT8": (fifty_six, short(0.49)),
        "resnet56: 0.3 of the MACs, whole blocks, distilled, INT8": (fifty_six, short(0.3)),
    }


def on_digits() -> Chains:
    """The same kinds of recipes on the network that is shipped, one short epoch each."""
    brief = {"schedule": {"epochs": 1, "lr": 0.02, "batch": 64}}
    low_rank = {"factorize": {"rank": "budget", "budget": 0.7, "round_to": 8}}
    return {
        "digits: FP32": ("digits_resnet20", ["fuse"]),
        "digits: INT8": ("digits_resnet20", INT8),
        "digits: 0.5 of the MACs, distilled, INT8": (
            "digits_resnet20",
            [{"prune": {"macs": 0.5, "round_to": 8}}, {"distill": brief}, *INT8],
        ),
        "digits: low rank, INT8": ("digits_resnet20", [low_rank, {"fit": brief}, *INT8]),
    }


def proven(name: str, model: str, stages: Sequence[Any], source: Any, runs: Path) -> tuple[Path, dict[str, Any]]:
    """Run one recipe: the folder of its last file, and what was proven of that; a failed gate stands in the row."""
    asked = {"name": "pipeline", "model": model, "data": source, "stages": list(stages)}
    folder = runs / slug(name)
    try:
        rescompress.run({**asked, "export": "onnx", "prove": "ends", "benchmark": False}, folder)
    except GateFailed as failed:
        print(f"{name}: {failed.fact}", flush=True)
    report = json.loads((folder / "report.json").read_text("utf-8"))
    last, costs = report["artifacts"][-1], [row["cost"]["macs"] for row in report["stages"]]
    return folder / last["folder"], {
        "recipe": name,
        "stages": [_told(stage) for stage in stages],
        "macs": costs[-1],
        "size_bytes": last["size_bytes"],
        "accuracy": last["verification"]["accuracy"],
        "rung": last["verification"]["rung"],
        "failures": last["verification"]["failures"],
    }


def _told(stage: Any) -> Any:
    """A stage without the folders of this machine."""
    if isinstance(stage, str):
        return stage
    ((name, knobs),) = stage.items()
    return {name: {knob: Path(value).name if knob == "teacher" else value for knob, value in knobs.items()}}


def ring(model: str, source: dict[str, Any]) -> Any:
    """The first 64 test images, as networks take them."""
    whole = rescompress.load(model)
    ((name, knobs),) = source.items()
    split = Context.of(whole, name, **knobs).images("benchmark").test
    images, _ = next(data.batches(split, models.spec_of(whole).preprocessing, 64))
    return images.numpy()


def measured(chains: Chains, source: dict[str, Any], runs: Path, **timing: Any) -> dict[str, Any]:
    """Run all recipes, time all files side by side, and find the front."""
    made = [proven(name, model, stages, source, runs) for name, (model, stages) in chains.items()]
    first, _ = next(iter(chains.values()))
    found, _ = rescompress.benchmark([folder for folder, _ in made], ring(first, source), **timing)
    rows = []
    for (_, row), timed in zip(made, found.latencies, strict=True):
        p50 = [timed.p50_ms, timed.p50_low_ms, timed.p50_high_ms]
        ratio = [timed.ratio, timed.ratio_low, timed.ratio_high]
        rows.append({**row, "p50_ms": p50, "ratio": ratio, "queries": timed.queries})
    rows = [{**row, "front": on_it} for row, on_it in zip(rows, front.pareto(rows), strict=True)]
    facts = {"launches": found.launches, "noise_floor": found.noise_floor}
    return {"rows": rows, "timing": {"verdict": found.verdict, "reasons": found.reasons, **facts}}


def fine_tuned(folder: Path, source: dict[str, Any], runs: Path) -> Path:
    """The published ResNet-56 after one epoch on the JPEG images."""
    start = folder / "weights" / "cifar10_resnet56-4bfd9763.th"
    asked = {"name": "resnet56", "model": str(start), "data": source, "stages": [{"fit": training(1, 0.02)}]}
    rescompress.run({**asked, "benchmark": False}, runs / "resnet56")
    return runs / "resnet56" / "stages" / "01-fit.safetensors"


def main() -> None:
    """Measure, and write the rows and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="holds cifar10/ and weights/")
    parser.add_argument("--quick", action="store_true", help="the shipped network instead")
    parser.add_argument("--resnet56", type=Path, help="one that was fine-tuned on the JPEG images before")
    parser.add_argument("--only", default="", help="recipes whose names begin so; all of them unless asked")
    parser.add_argument("--epochs", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.quick:
        with tempfile.TemporaryDirectory() as runs:
            brief = {"launches": 2, "blocks": 2, "block_seconds": 0.01}
            found = measured(on_digits(), {"digits": {}}, Path(runs), **brief)
            front.draw(found["rows"], Path(runs) / "pipeline.svg")
        print(json.dumps(found, indent=2))
        return
    if asked.folder is None:
        parser.error("Name the folder of the shared data, or ask for --quick.")
    source, runs = (
        {"cifar10": {"root": str(asked.folder / "cifar10"), "test_images": TEST_IMAGES}},
        ROOT / "runs" / "pipeline",
    )
    fifty_six = asked.resnet56 or fine_tuned(asked.folder, source, runs)
    chains = on_cifar10(str(asked.folder / "weights" / "cifar10_resnet20_jpegft.th"), str(fifty_six), asked.epochs)
    chains = {name: chain for name, chain in chains.items() if name.startswith(asked.only)}
    found = measured(chains, source, runs)
    published.write("pipeline", {"epochs": asked.epochs, "test_images": TEST_IMAGES, **found, **published.here()})
    front.draw(found["rows"], published.FOLDER / "pipeline.svg")


if __name__ == "__main__":
    main()
