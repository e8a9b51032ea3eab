"""Pruning and recovery on real CIFAR-10 ResNets: against plain fine-tuning, uniform widths and Torch-Pruning's pruner.

    python benchmarks/pruning.py ../shared/data [--parts deep,longer,mild,short,latency,whole] [--epochs 6]

The images are CIFAR-10 re-encoded as JPEG, on which the published ResNet-56 is fine-tuned first: that is the baseline.
Accuracies are changes against it, paired on all 10,000 test images. Each part adds its numbers, with the machine and
the minutes it took, to ``results/pruning.json``; what was trained before is taken from ``runs/``.
"""

import argparse
import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import published
import torch
from torch import nn

import rescompress
from rescompress import data, models, recipe
from rescompress.context import Context
from rescompress.layers import PadShortcut

ROOT = Path(__file__).resolve().parents[1]
DEEP, MILD, LATENCY = 1 / 2.13, 1 / 1.5, 0.6
WHOLE = {"unit": "blocks", "macs": 0.46}
"""Whole blocks, a little more than half of the MACs: in INT8 the sums between blocks cost nearly as much as layers."""
UNIFORM = (0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3)
"""Shares of the MACs that are tried in order to find a uniform cut as slow as the planned one."""
TUNED = {"batch": 128, "augment": "shift+mirror", "amp": "bf16"}
CUT = {"importance": "taylor", "ranking": "global", "round_to": 8}


class Bench:
    """Where images, checkpoints and runs lie, and how long is trained."""

    def __init__(self, folder: Path, asked: argparse.Namespace) -> None:
        torch.set_num_threads(asked.threads)
        self.baseline, self.taught = asked.baseline, asked.taught
        self.folder, self.epochs, self.threads = folder, asked.epochs, asked.threads
        self.source = {"cifar10": {"root": str(folder / "cifar10")}}
        self.runs = ROOT / "runs"
        self.results: dict[str, Any] = published.read("pruning").get("parts", {})

    def run(self, model: str | Path, *stages: Any, **more: Any) -> Path:
        """Run a recipe on CIFAR-10; the folder of the run."""
        asked = {"name": "pruning", "model": str(model), "data": self.source, "stages": list(stages)}
        job = recipe.parse({**asked, "benchmark": False, **more})
        folder = self.runs / f"{job.name}-{job.digest}"
        rescompress.run(job, folder)
        return folder

    def schedule(self, lr: float = 0.04, epochs: int | None = None) -> dict[str, Any]:
        """How long and how hard to train."""
        return {"epochs": epochs or self.epochs, "lr": lr, **TUNED}

    def context(self, model: nn.Module) -> Context:
        """The images as the recipes see them."""
        return Context.of(model, "cifar10", root=self.folder / "cifar10")

    def right(self, model: nn.Module) -> np.ndarray[Any, Any]:
        """Which of the 10,000 test images a model gets right."""
        split, preprocessing = self.context(model).images("test").test, models.spec_of(model).preprocessing
        found = [
            (models.predict(model, [images]).argmax(1) == labels).numpy()
            for images, labels in data.batches(split, preprocessing, 250)
        ]
        return np.concatenate(found)

    def keep(self, part: str, numbers: dict[str, Any], started: float) -> None:
        """Write a part's numbers beside those of the others."""
        minutes = round((time.monotonic() - started) / 60, 1)
        self.results[part] = {**numbers, "minutes": minutes, "threads": self.threads, **published.here()}
        published.write("pruning", {"parts": self.results})
        print(part, json.dumps(numbers, indent=2, default=str), f"{minutes} min")


def last(folder: Path, label: str) -> Path:
    """The checkpoint of a run's stage."""
    return next((folder / "stages").glob(f"*-{label}.safetensors"))


def rows_of(folder: Path) -> dict[str, Any]:
    """What the rows of a run's stages say."""
    rows = [json.loads(file.read_text())["row"] for file in sorted((folder / "stages").glob("*.json"))]
    return {row["stage"]: {"macs": row["cost"]["macs"], "notes": row["notes"]} for row in rows}


def against(base: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> dict[str, float]:
    """Accuracy, and its change in points with the 95 % interval of the paired difference."""
    change = other.astype(float) - base
    half = 1.96 * change.std(ddof=1) / len(change) ** 0.5
    points = [
        round(100 * value, 2) for value in (other.mean(), change.mean(), change.mean() - half, change.mean() + half)
    ]
    return dict(zip(("accuracy", "change", "low", "high"), points, strict=True))


def timed(bench: Bench, candidates: Sequence[nn.Module], names: Sequence[str], place: Path) -> dict[str, Any]:
    """Latency of all candidates in ONNX Runtime FP32, one thread, interleaved; ratios are against the first."""
    folders = []
    for model, name in zip(candidates, names, strict=True):
        rescompress.export(model, "onnx", place / name)
        folders.append(place / name)
    images = next(
        data.batches(bench.context(candidates[0]).images("test").test, models.spec_of(candidates[0]).preprocessing, 64)
    )[0]
    row, _ = rescompress.benchmark(folders, images.numpy())
    found = {
        name: {"p50_ms": one.p50_ms, "ratio": [one.ratio, one.ratio_low, one.ratio_high]}
        for name, one in zip(names, row.latencies, strict=True)
    }
    return {"latency": found, "verdict": row.verdict, "reasons": row.reasons}


def baseline(bench: Bench) -> Path:
    """The published ResNet-56, fine-tuned for five epochs on the JPEG images, or what is given in its place."""
    if bench.baseline is not None:
        return bench.baseline
    published = bench.folder / "weights" / "cifar10_resnet56-4bfd9763.th"
    return last(bench.run(published, {"fit": {"schedule": bench.schedule(lr=0.02, epochs=5)}}), "fit")


def torch_pruning(model: nn.Module, share: float) -> nn.Module:
    """Torch-Pruning's own way: group norms, ranked globally, step by step until so many MACs are left.

    These are the settings of its benchmarks/main.py (GroupNormPruner without sparse learning). The padded shortcuts are
    written as fixed 1 x 1 convolutions first, for it can't follow padding.
    """
    import torch_pruning as tp

    spec, net = models.spec_of(model), copy.deepcopy(model)
    for name, module in list(net.named_modules()):
        if isinstance(module, PadShortcut):
            conv = nn.Conv2d(module.in_channels, module.out_channels, 1, module.stride, bias=False)
            conv.weight.data = module.weight.clone()
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, conv)
    example = torch.zeros(1, *spec.input_shape)
    pruner = tp.pruner.GroupNormPruner(
        net,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        iterative_steps=400,
        pruning_ratio=1.0,
        ignored_layers=[net.linear],
    )
    whole = tp.utils.count_ops_and_params(net, example)[0]
    while tp.utils.count_ops_and_params(net, example)[0] > share * whole:
        pruner.step()
    return models.describe(net, spec)


def deep(bench: Bench) -> dict[str, Any]:
    """2.13 times fewer MACs: ours plainly fine-tuned and distilled, and Torch-Pruning's cut plainly fine-tuned."""
    file = baseline(bench)
    whole = rescompress.load(file)
    base, macs = bench.right(whole), rescompress.total_cost(whole).macs
    numbers: dict[str, Any] = {
        "baseline": {"accuracy": round(100 * base.mean(), 2), "macs": macs},
        "epochs": bench.epochs,
    }
    cut = {"prune": {"macs": DEEP, **CUT}}
    plain = rescompress.load(last(bench.run(file, cut, {"fit": {"schedule": bench.schedule()}}), "fit"))
    taught = rescompress.load(last(bench.run(file, cut, {"distill": {"schedule": bench.schedule()}}), "distill"))
    theirs = torch_pruning(whole, DEEP)
    theirs = rescompress.fit(theirs, bench.context(theirs), schedule=rescompress.Schedule(**bench.schedule()))
    found = {"ours, plain": plain, "ours, distilled": taught, "torch-pruning, plain": theirs}
    for name, model in found.items():
        cost = rescompress.total_cost(model)
        numbers[name] = {"macs": cost.macs / macs, "params": cost.params, **against(base, bench.right(model))}
    place = bench.runs / "pruning-timed"
    names = ("baseline", "ours", "torch-pruning")
    return {**numbers, **timed(bench, (whole, plain, theirs), names, place)}


def longer(bench: Bench) -> dict[str, Any]:
    """The deep cut fine-tuned for two thirds more epochs: more than the time that the teacher costs distillation."""
    file, epochs = baseline(bench), -(-5 * bench.epochs // 3)
    base = bench.right(rescompress.load(file))
    recovery = {"fit": {"schedule": bench.schedule(epochs=epochs)}}
    folder = bench.run(file, {"prune": {"macs": DEEP, **CUT}}, recovery)
    return {"epochs": epochs, **against(base, bench.right(rescompress.load(last(folder, "fit"))))}


def mild(bench: Bench) -> dict[str, Any]:
    """1.5 times fewer MACs, distilled."""
    file = baseline(bench)
    whole = rescompress.load(file)
    base, macs = bench.right(whole), rescompress.total_cost(whole).macs
    folder = bench.run(file, {"prune": {"macs": MILD, **CUT}}, {"distill": {"schedule": bench.schedule()}})
    model = rescompress.load(last(folder, "distill"))
    return {
        "epochs": bench.epochs,
        "macs": rescompress.total_cost(model).macs / macs,
        **against(base, bench.right(model)),
    }


def short(bench: Bench) -> dict[str, Any]:
    """About as many MACs as the deep cut leaves, by whole blocks; distilled for as long."""
    file = baseline(bench)
    whole = rescompress.load(file)
    base, macs = bench.right(whole), rescompress.total_cost(whole).macs
    folder = bench.run(file, {"prune": WHOLE}, {"distill": {"schedule": bench.schedule()}})
    model = rescompress.load(last(folder, "distill"))
    numbers = {
        "baseline": round(100 * base.mean(), 2),
        "epochs": bench.epochs,
        "macs": rescompress.total_cost(model).macs / macs,
        **against(base, bench.right(model)),
    }
    return {**numbers, **timed(bench, (whole, model), ("baseline", "short"), bench.runs / "pruning-short")}


def latency(bench: Bench) -> dict[str, Any]:
    """ResNet-20 at 0.6 of its latency: planned from measured layers, against one ratio everywhere at least as slow."""
    file = bench.folder / "weights" / "cifar10_resnet20_jpegft.th"
    whole = rescompress.load(file)
    base, macs = bench.right(whole), rescompress.total_cost(whole).macs
    cuts = {"planned": {**CUT, "latency": LATENCY}}
    cuts |= {f"uniform {share}": {**CUT, "round_to": 4, "ranking": "local", "macs": share} for share in UNIFORM}
    shapes = [rescompress.prune(whole, bench.context(whole), **cut) for cut in cuts.values()]
    place = bench.runs / "pruning-timed-20"
    found = timed(bench, (whole, *shapes), ("baseline", *cuts), place)
    ratios = {name: found["latency"][name]["ratio"][0] for name in cuts}
    uniform = min((name for name in cuts if ratios[name] >= ratios["planned"] and name != "planned"), key=ratios.get)  # type: ignore[arg-type]
    numbers: dict[str, Any] = {"target": LATENCY, "epochs": bench.epochs}
    for name in ("planned", uniform):
        folder = bench.run(file, {"prune": cuts[name]}, {"fit": {"schedule": bench.schedule()}})
        model = rescompress.load(last(folder, "fit"))
        share = rescompress.total_cost(model).macs / macs
        notes = rows_of(folder)["prune"]["notes"]
        numbers[name] = {"macs": share, "notes": notes, **against(base, bench.right(model))}
    return {**numbers, **found}


def proven(folder: Path, label: str) -> list[tuple[Path, dict[str, Any]]]:
    """The files of a run's stage, one per runtime, and what was proven of each on all test images."""
    report = json.loads((folder / "report.json").read_text())
    made = [one for one in report["artifacts"] if label in one["label"]]
    return [
        (
            folder / one["folder"],
            {
                "runtime": one["backend"],
                "accuracy": 100 * one["verification"]["accuracy"]["correct"] / 10_000,
                "bytes": one["size_bytes"],
            },
        )
        for one in made
    ]


def whole(bench: Bench) -> dict[str, Any]:
    """Pruned, distilled, fused and in INT8: bytes, accuracy and latency of the files themselves, timed in one run."""
    file, taught = baseline(bench), bench.taught
    if taught is None:
        taught = last(bench.run(file, {"prune": WHOLE}, {"distill": {"schedule": bench.schedule()}}), "distill")
    exact = bench.run(file, "fuse", export="onnx", prove="ends")
    small = bench.run(taught, "fuse", "quantize", export=["onnx", "openvino"], prove="ends")
    files = [*proven(exact, "fuse"), *proven(small, "quantize")]
    found = [rescompress.load(model) for model in (file, taught)]
    images = next(data.batches(bench.context(found[0]).images("test").test, models.spec_of(found[0]).preprocessing, 64))
    timing, _ = rescompress.benchmark([folder for folder, _ in files], images[0].numpy())
    macs = [rescompress.total_cost(model).macs for model in found]
    rows = [
        {**facts, "p50_ms": timed.p50_ms, "ratio": [timed.ratio, timed.ratio_low, timed.ratio_high]}
        for (_, facts), timed in zip(files, timing.latencies, strict=True)
    ]
    numbers = {"macs": macs[1] / macs[0], "epochs": bench.epochs, "rows": rows, **timed_again(bench)}
    return {**numbers, "verdict": timing.verdict, "reasons": timing.reasons}


def timed_again(bench: Bench) -> dict[str, Any]:
    """What the same files showed before, fast or slow, where only their latency is measured again."""
    earlier = bench.results.get("whole")
    if bench.taught is None or earlier is None:
        return {}
    ratios = [[row["runtime"], *row["ratio"]] for row in earlier["rows"][1:]]
    trained = earlier.get("trained_minutes", earlier["minutes"])
    return {"timed_before": [*earlier.get("timed_before", []), *ratios], "trained_minutes": trained}


PARTS = {"deep": deep, "longer": longer, "mild": mild, "short": short, "latency": latency, "whole": whole}


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds cifar10/ and weights/")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--baseline", type=Path, help="a ResNet-56 that was fine-tuned on the JPEG images before")
    parser.add_argument("--taught", type=Path, help="what the whole chain made of it before: cut and distilled")
    asked = parser.parse_args()
    bench = Bench(asked.folder.resolve(), asked)
    for part in asked.parts.split(","):
        started = time.monotonic()
        bench.keep(part, PARTS[part](bench), started)


if __name__ == "__main__":
    main()
