"""INT8 on this CPU: ours beside ONNX Runtime's quantize_static, NNCF, ModelOpt and Neural Compressor.

    python benchmarks/int8_cpu.py ../shared/data --python nncf=PATH --python modelopt=PATH --python inc=PATH
        [--networks resnet20_jpegft,resnet56] [--parts accuracy,latency] [--limit 1000]

All tools start from the same FP32 ONNX file (ours from the checkpoint, so its seconds hold the export) and the same
calibration images, with default settings unless the row's name says otherwise. Accuracy is that of the artifact in its
runtime, on images that nobody calibrated on, paired with FP32 in the same runtime; p is McNemar's exact one of ours, as
made for that runtime, against the row. Latency is one process per artifact, interleaved, one thread, batch 1; ratios
are against ONNX Runtime's FP32.
Peers run in Pythons of their own (``python -m venv``; ModelOpt pins an older ONNX Runtime); one that isn't named is
left out, and the result says so; one that dies, also at the cap on its address space, stands there with its last words.
What peers made and what artifacts answered is kept under ``runs/int8_cpu``, ours is made anew each time. Networks are
added to ``results/int8_cpu.json`` one by one, so that a single one can be run again.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import published
from peers import networks, paired, table, timing
from peers.player import Player
from peers.tools import digest, files, size, slug
from peers.tools import run as run_tool

import rescompress
from rescompress.context import Context

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "benchmarks" / "peers"
WORK = ROOT / "runs" / "int8_cpu"


@dataclass(frozen=True)
class Maker:
    """What makes one artifact.

    Attributes:
        name: of its rows.
        script: in ``peers/``.
        python: which interpreter runs it.
        variant: what the script is asked for.
        runtime: where its accuracy is measured; ONNX files are timed in both.
        timed: False where another row has the same graph with other numbers.
    """

    name: str
    script: str
    python: str
    variant: str
    runtime: str = "onnxruntime"
    timed: bool = True


OURS = (
    Maker("ours", "ours", "ours", "{}"),
    Maker(table.OURS["openvino"], "ours", "ours", '{"runtime": "openvino"}', "openvino"),
)
PEERS = (
    Maker("ORT default", "ort_static", "ort", "default"),
    Maker("ORT best, min-max", "ort_static", "ort", "minmax"),
    Maker("ORT best, entropy", "ort_static", "ort", "entropy", timed=False),
    Maker("ORT best, percentile", "ort_static", "ort", "percentile", timed=False),
    Maker("NNCF on ONNX", "nncf_onnx", "nncf", "performance"),
    Maker("NNCF on ONNX, mixed", "nncf_onnx", "nncf", "mixed"),
    Maker("NNCF on OpenVINO", "nncf_openvino", "nncf", "performance", "openvino"),
    Maker("NNCF on OpenVINO, mixed", "nncf_openvino", "nncf", "mixed", "openvino", timed=False),
    Maker("ModelOpt, entropy", "modelopt_onnx", "modelopt", "entropy"),
    Maker("ModelOpt, max", "modelopt_onnx", "modelopt", "max", timed=False),
    Maker("Neural Compressor 2.6", "inc_onnx", "inc", "default"),
)


class Bench:
    """One network: its folder under ``runs/``, its images and what was found so far."""

    def __init__(self, name: str, asked: argparse.Namespace) -> None:
        self.name, self.asked, self.network = name, asked, networks.NETWORKS[name]
        self.place = WORK / name
        self.place.mkdir(parents=True, exist_ok=True)
        self.images = WORK / "images" / self.network.images
        self.weights = networks.weights(self.network, asked.folder, self.place)
        networks.prepare(self.network.images, asked.folder, self.images, self.weights)
        self.labels = np.load(self.images / "labels.npy")[: asked.limit]
        self.made: dict[str, dict[str, Any]] = {}
        self.missing: dict[str, str] = {}
        self.makers: dict[str, Maker] = {}

    def say(self, words: str) -> None:
        """Progress, on standard error."""
        print(f"{time.strftime('%H:%M:%S')} {self.name}: {words}", file=sys.stderr, flush=True)

    def file(self, name: str) -> Path:
        """What a runtime opens."""
        return self.place / slug(name) / str(self.made[name]["entry"])

    def make_fp32(self) -> None:
        """The folded FP32 network as ONNX, for all tools and as the reference."""
        key = digest(self.weights, rescompress.__version__)
        folder, noted = self.place / "fp32", self.place / "fp32.json"
        made = json.loads(noted.read_text()) if noted.is_file() and not self.asked.fresh else {}
        if made.get("key") != key:
            self.say("exporting FP32")
            begin, busy = time.perf_counter(), time.process_time()
            rescompress.export(rescompress.fuse(rescompress.load(self.weights), Context()), "onnx", folder)
            took = {"seconds": time.perf_counter() - begin, "cpu_s": time.process_time() - busy}
            made = {"key": key, "entry": "model.onnx", **{name: round(value, 2) for name, value in took.items()}}
            noted.write_text(json.dumps(made))
        self.made["fp32"] = {**made, "bytes": size(folder / "model.onnx")}

    def make(self, maker: Maker) -> None:
        """One INT8 artifact, from what is kept if nothing changed; why there is none, otherwise."""
        interpreter = self.asked.python.get(maker.python)
        if interpreter is None:
            self.missing[maker.name] = f"no --python {maker.python}=PATH was given"
            return
        ours, folder = maker.python == "ours", self.place / slug(maker.name)
        start = self.weights if ours else self.place / "fp32" / "model.onnx"
        images = self.images / ("calibration.npz" if ours else "calibration.npy")
        key = digest(start, images, SCRIPTS / f"{maker.script}.py", maker.variant, interpreter)
        noted = folder.with_suffix(".json")
        made = json.loads(noted.read_text()) if noted.is_file() and not ours and not self.asked.fresh else {}
        if made.get("key") != key:
            self.say(f"making {maker.name}")
            folder.mkdir(exist_ok=True)
            source = start if ours else shutil.copy(start, folder / "fp32.onnx")  # ModelOpt writes into its input
            command = [interpreter, SCRIPTS / f"{maker.script}.py", source, images, folder, maker.variant]
            made = {"key": key, **run_tool(command, self.asked.cap_gb)}
            noted.write_text(json.dumps(made))
        if "died" in made:
            self.missing[maker.name] = made["died"]
            return
        self.makers[maker.name] = maker
        self.made[maker.name] = {**made, "bytes": size(folder / made["entry"])}

    def logits(self, name: str, runtime: str) -> Any:
        """What an artifact answers to the test images in one runtime, from what is kept if the file is the same."""
        file = self.file(name)
        batch = networks.BATCHES[self.network.images]
        key = digest(*files(file), runtime, published.here()["environment"]["packages"][runtime], str(len(self.labels)))
        kept = self.place / f"logits-{runtime}-{slug(name)}-{key[:16]}.npy"
        if not kept.is_file():
            self.say(f"running {name} in {runtime}")
            for old in self.place.glob(f"logits-{runtime}-{slug(name)}-*.npy"):
                old.unlink()
            with Player(runtime, file, batch) as player:
                player.ask(do="logits", images=str(self.images / "test.npy"), limit=len(self.labels), out=str(kept))
        return np.load(kept)

    def accuracy(self) -> dict[str, Any]:
        """A row per artifact in its own runtime; what of ours is an ONNX file in both."""
        rows = []
        for runtime in table.RUNTIMES:
            reference = self.logits("fp32", runtime)
            rows.append({"artifact": "fp32", "runtime": runtime, **judged(reference, reference, self.labels)})
            mine = table.OURS[runtime]
            ours = paired.right(self.logits(mine, runtime), self.labels) if mine in self.made else None
            for name, maker in self.makers.items():
                if maker.runtime != runtime and not (maker.python == "ours" and self.file(name).suffix == ".onnx"):
                    continue
                found = self.logits(name, runtime)
                row = {"artifact": name, "runtime": runtime, **judged(reference, found, self.labels)}
                if name != mine and ours is not None:
                    row["p"] = round(paired.mcnemar(ours, paired.right(found, self.labels)), 4)
                rows.append(row)
        return {"rows": rows}

    def latency(self) -> dict[str, Any]:
        """All artifacts in all runtimes that read them, in one interleaved run."""
        candidates = list(self.candidates())
        plan = timing.Plan(self.asked.launches, self.asked.blocks, self.asked.block_seconds)
        return timing.times(candidates, self.images / "test.npy", plan, self.say)

    def candidates(self) -> Iterator[timing.Candidate]:
        """ONNX Runtime's FP32 first."""
        names = ["fp32", *(name for name, maker in self.makers.items() if maker.timed)]
        for runtime in table.RUNTIMES:
            for name in names:
                if runtime == "openvino" or self.file(name).suffix == ".onnx":
                    yield timing.Candidate(name, runtime, self.file(name))


def judged(reference: Any, found: Any, labels: Any) -> dict[str, float]:
    """A row of the results."""
    return paired.judge(reference, found, labels).row()


def run(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Make all artifacts of one network and measure what was asked for; other parts' numbers stay."""
    started, bench = time.monotonic(), Bench(name, asked)
    bench.make_fp32()
    for maker in (*OURS, *asked.ours, *PEERS):
        if maker.python == "ours" or asked.peers is None or maker.python in asked.peers:
            bench.make(maker)
    entry = published.read("int8_cpu").get("networks", {}).get(name, {})
    entry |= {part: getattr(bench, part)() for part in asked.parts}
    kept = ("bytes", "seconds", "cpu_s", "peak_mb", "versions")
    entry["artifacts"] = {
        artifact: {column: facts[column] for column in kept if column in facts}
        for artifact, facts in bench.made.items()
    }
    minutes, calibrated = round((time.monotonic() - started) / 60, 1), networks.CALIBRATING[bench.network.images]
    entry |= {"missing": bench.missing, "calibrated": calibrated, "judged": len(bench.labels), "minutes": minutes}
    return {**entry, **published.here()}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds weights/, cifar10/ and imagenet/")
    parser.add_argument("--networks", default=",".join(networks.NETWORKS))
    parser.add_argument("--parts", default="accuracy,latency")
    parser.add_argument("--limit", type=int, default=None, help="test images that are judged; all if not given")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="of nncf, modelopt, inc, ort"
    )
    parser.add_argument(
        "--peers", default=None, help="only these interpreters' peers, such as ort,nncf; none: an empty word"
    )
    parser.add_argument(
        "--ours", action="append", default=[], metavar="NAME=JSON", help="one more row, with these knobs"
    )
    parser.add_argument("--cap-gb", type=float, default=14.0, help="address space of a tool; beyond it, it dies")
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--block-seconds", type=float, default=0.1)
    parser.add_argument("--fresh", action="store_true", help="make what is kept under runs/ anew")
    parser.add_argument("--dry", action="store_true", help="print, but leave the results' file alone")
    asked = parser.parse_args()
    asked.python = {"ours": sys.executable, "ort": sys.executable, **dict(pair.split("=", 1) for pair in asked.python)}
    asked.ours = [
        Maker(f"ours, {name}", "ours", "ours", knobs) for name, knobs in (one.split("=", 1) for one in asked.ours)
    ]
    asked.parts, asked.networks = asked.parts.split(","), asked.networks.split(",")
    asked.peers = None if asked.peers is None else asked.peers.split(",")
    return asked


def main() -> None:
    """Run the networks one by one; print and keep each as soon as it is done."""
    asked = parse()
    for name in asked.networks:
        entry = run(name, asked)
        if not asked.dry:
            kept = published.read("int8_cpu").get("networks", {})
            published.write("int8_cpu", {"networks": {**kept, name: entry}})
        print(table.table(name, entry) + "\n", flush=True)


if __name__ == "__main__":
    main()
