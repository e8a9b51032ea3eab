"""How often the harness is right: equal artifacts, and artifacts that were slowed by 5 % and 10 % on purpose.

    python benchmarks/harness_honesty.py [--runs 50] [--blocks 20] [--only runs,overhead]

Each run times a ResNet-20 in ONNX Runtime, one thread, batch 1 (about 1 ms), as `rescompress benchmark` does, against
an equal copy and two that wait after each query for 5 % and 10 % of that query's own time. The wait is put into the
worker processes from outside (`slowing/`); the harness is the one that everybody uses, with a third of its default
blocks. A copy that differs by the rule of every report is a false alarm. Overhead: what the harness's clock shows for
a query, against a plain loop over the same session and images, in turns; and the share of a worker's time that no
query's clock counts. Results: ``results/harness_honesty.json``.
"""

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import published

import rescompress
from rescompress import backends, progress
from rescompress.artifact import MANIFEST, open_artifact, to_json, write_bytes
from rescompress.benchmarking import statistics
from rescompress.benchmarking.validity import differs
from rescompress.metrics import wilson
from rescompress.spec import Proportion
from rescompress.worker import Worker

ROOT = Path(__file__).resolve().parents[1]
NAME = "harness_honesty"
WEIGHTS = ROOT / "rescompress" / "weights" / "digits_resnet20.safetensors"
EQUAL, FIVE, TEN = "slower by 0 %", "slower by 5 %", "slower by 10 %"
LABELS = ("baseline, slower by 0 %", EQUAL, FIVE, TEN)
LOOP_LAUNCHES, LOOP_ROUNDS, LOOP_S = 10, 20, 0.05
Row = dict[str, Any]


def runs(plain: Path, work: Path, asked: argparse.Namespace, found: Row) -> None:
    """So many whole benchmarks, and how often each candidate was found to differ; what was begun here goes on."""
    folders = [relabelled(plain, work / str(i), label) for i, label in enumerate(LABELS)]
    here, before = published.here(), found.get("detection", {})
    same = (before.get("fingerprint"), before.get("blocks")) == (here["fingerprint"], asked.blocks)
    rows = list(before["runs"]) if same else []
    for seed in range(len(rows), asked.runs):
        begin = time.perf_counter()
        row, _ = rescompress.benchmark(folders, images(), seed=seed, blocks=asked.blocks)
        rows.append({
            "seconds": round(time.perf_counter() - begin, 1),
            "launches": row.launches,
            "p50_ms": round(row.latencies[0].p50_ms, 4),
            "noise_floor": round(row.noise_floor, 4),
            "verdict": row.verdict,
            "ratios": {one.label: rounded(one.ratio, one.ratio_low, one.ratio_high) for one in row.latencies[1:]},
            "found": [one.label for one in row.latencies[1:] if differs(one, row.noise_floor)],
        })  # fmt: skip
        print(f"run {seed + 1} of {asked.runs}: {rows[-1]}", flush=True)
        found["detection"] = {**counted(rows), "blocks": asked.blocks, "runs": rows, **here}
        published.write(NAME, found)


def counted(rows: list[Row]) -> Row:
    """How often each was found, with Wilson's interval; and how often the equal copy's interval held 1."""
    held = sum(row["ratios"][EQUAL][1] <= 1 <= row["ratios"][EQUAL][2] for row in rows)
    return {
        "false_alarms": share(sum(EQUAL in row["found"] for row in rows), len(rows)),
        "found_5_percent": share(sum(slower(row, FIVE) for row in rows), len(rows)),
        "found_10_percent": share(sum(slower(row, TEN) for row in rows), len(rows)),
        "equal_interval_holds_1": share(held, len(rows)),
        "launches": [min(row["launches"] for row in rows), max(row["launches"] for row in rows)],
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }


def slower(row: Row, label: str) -> bool:
    """Whether it was found, and found slower."""
    return label in row["found"] and row["ratios"][label][0] > 1


def share(count: int, total: int) -> Row:
    """A count with its 95 % interval in percent."""
    return {"count": count, "of": total, "percent": [round(end, 1) for end in wilson(Proportion(count, total))]}


def rounded(*values: float) -> list[float]:
    """To a hundredth of a percent."""
    return [round(value, 4) for value in values]


def overhead(plain: Path) -> Row:
    """What the harness adds to a query of the same artifact, as its clock shows it, and around the clock."""
    shown, outside = [], []
    ring = np.ascontiguousarray(np.resize(images(), (64, *images().shape[1:])))
    for _ in progress.track(range(LOOP_LAUNCHES), "overhead"):
        with Worker(plain) as worker, backends.require("onnxruntime").load(open_artifact(plain), threads=1) as session:
            worker.hold(ring)
            worker.time(0.3, 1)
            loop(session, ring, 0.3)
            rounds = []
            for _ in range(LOOP_ROUNDS):
                turns = {}
                for turn in random.sample(("harness", "loop"), 2):
                    turns[turn] = harness(worker) if turn == "harness" else (loop(session, ring, LOOP_S), 0.0)
                rounds.append(np.log(turns["harness"][0] / turns["loop"][0]))
                outside.append(turns["harness"][1])
            shown.append(float(np.exp(np.median(rounds))))
    ratio = statistics.geometric_mean(np.array(shown), np.random.default_rng(0))
    return {
        "harness_by_plain_loop": rounded(ratio.value, ratio.low, ratio.high),
        "outside_the_clock": round(float(np.median(outside)), 5),
        "launches": LOOP_LAUNCHES,
        **published.here(),
    }


def harness(worker: Worker) -> tuple[float, float]:
    """The median of a block in the harness, in seconds, and the share of the block that no query's clock counted."""
    begin = time.perf_counter()
    ns = worker.time(LOOP_S, 1)
    whole = time.perf_counter() - begin
    return float(np.median(ns)) / 1e9, 1 - sum(ns) / 1e9 / whole


def loop(session: Any, ring: np.ndarray[Any, Any], seconds: float) -> float:
    """Median seconds per query of a plain loop, whose clock is read once between two queries."""
    times, at = [time.perf_counter()], 0
    while times[-1] < times[0] + seconds:
        session.run(ring[at : at + 1])
        at = (at + 1) % len(ring)
        times.append(time.perf_counter())
    return float(np.median(np.diff(times)))


def images() -> np.ndarray[Any, Any]:
    """Seeded noise: how long a ResNet takes doesn't depend on what it sees."""
    return np.random.default_rng(0).normal(size=(64, 3, 32, 32)).astype(np.float32)


def relabelled(artifact: Path, folder: Path, label: str) -> Path:
    """A copy of an artifact under another label; the files, and so their digests, stay as they are."""
    shutil.copytree(artifact, folder)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    write_bytes(folder / MANIFEST, to_json({**manifest, "label": label}))
    return folder


def main() -> None:
    """Measure what is asked for, and write it run by run; the other part is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--only", default="runs,overhead")
    asked = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "benchmarks" / "slowing"), str(ROOT)])
    found = published.read(NAME)
    with tempfile.TemporaryDirectory() as name:
        plain = Path(name) / "plain"
        rescompress.export(rescompress.load(WEIGHTS), "onnx", plain)
        if "overhead" in asked.only:
            found["overhead"] = overhead(plain)
            published.write(NAME, found)
            print(found["overhead"], flush=True)
        if "runs" in asked.only.split(","):
            runs(plain, Path(name), asked, found)


if __name__ == "__main__":
    main()
