"""Times foreign artifacts side by side, as ``rescompress benchmark`` times its own: same order, statistics, verdict."""

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peers.player import Player
from peers.table import OURS
from rescompress.benchmarking import machine, statistics, validity

WARM_UP_S, LEAD_IN, RING = 0.3, 0.1, 64
Times = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Candidate:
    """One artifact in one runtime."""

    name: str
    runtime: str
    file: Path


@dataclass(frozen=True)
class Plan:
    """How long is measured: launches of fresh processes, blocks of so many seconds in each."""

    launches: int
    blocks: int
    block_s: float


def times(candidates: Sequence[Candidate], images: Path, plan: Plan, say: Any) -> dict[str, Any]:
    """Rows with ratios against the first candidate, ONNX Runtime's FP32; a copy of it shows what is noise."""
    order, before = random.Random(0), machine.clock()
    asked = [*candidates, candidates[0]]
    done, facts = [], []
    for turn in range(plan.launches):
        say(f"timing, launch {turn + 1} of {plan.launches}")
        blocks, facts = launch(asked, images, plan, order)
        done.append(blocks)
    load = machine.load(before, machine.clock())
    found = [{**row, **fact} for row, fact in zip(rows(candidates, done), facts, strict=False)]
    return {"rows": found, **verdict(asked, done, load), "launches": plan.launches}


def launch(
    asked: Sequence[Candidate], images: Path, plan: Plan, order: random.Random
) -> tuple[list[list[Times]], list[dict[str, Any]]]:
    """Blocks of nanoseconds of each candidate, in fresh processes and random turns; and what each runtime built."""
    with ExitStack() as stack:
        players = [stack.enter_context(Player(one.runtime, one.file)) for one in asked]
        facts = [player.ask(do="facts") for player in players]
        for player in players:
            player.ask(do="hold", images=str(images), limit=RING)
        for player in players:
            player.ask(do="time", seconds=WARM_UP_S, at_least=10)
        blocks: list[list[Times]] = [[] for _ in players]
        for _ in range(plan.blocks):
            for i in order.sample(range(len(players)), len(players)):
                # the others have just used the caches: run a little untimed
                players[i].ask(do="time", seconds=LEAD_IN * plan.block_s, at_least=1)
                blocks[i].append(np.array(players[i].ask(do="time", seconds=plan.block_s, at_least=3), np.int64))
        return blocks, facts


def rows(candidates: Sequence[Candidate], done: Sequence[list[list[Times]]]) -> list[dict[str, Any]]:
    """Medians, and ratios of the same round; ``ours`` holds the ratio of ours to this row's latency."""
    rng = np.random.default_rng(0)
    taken = [[blocks[i] for blocks in done] for i in range(len(candidates))]
    mine = {one.runtime: taken[i] for i, one in enumerate(candidates) if one.name == OURS[one.runtime]}
    found = []
    for one, of_one in zip(candidates, taken, strict=True):
        launches = [np.concatenate(blocks) for blocks in of_one]
        against = statistics.paired(of_one, taken[0], rng)
        ours = statistics.paired(mine[one.runtime], of_one, rng) if one.runtime in mine else None
        found.append({
            "artifact": one.name,
            "runtime": one.runtime,
            "p50_ms": round(statistics.p50(launches, rng).value / 1e6, 4),
            "queries": sum(map(len, launches)),
            "ratio": [round(value, 4) for value in (against.value, against.low, against.high)],
            "ours": [round(value, 4) for value in (ours.value, ours.low, ours.high)] if ours else None,
        })  # fmt: skip
    return found


def verdict(asked: Sequence[Candidate], done: Sequence[list[list[Times]]], load: machine.Load | None) -> dict[str, Any]:
    """Whether the numbers can be trusted, by the rules of ``rescompress benchmark``."""
    first, copy = ([blocks[i] for blocks in done] for i in (0, len(asked) - 1))
    same = statistics.paired(copy, first, np.random.default_rng(0))
    floor = max(abs(1 - same.low), abs(same.high - 1))
    names = [f"{one.name} in {one.runtime}" for one in asked[:-1]] + ["fp32 (A/A)"]
    blocks = {name: [block for one in done for block in one[i]] for i, name in enumerate(names)}
    facts = validity.Facts(
        launches=len(done),
        queries={name: sum(map(len, of_one)) for name, of_one in blocks.items()},
        mismatched=(),
        unsteady=(),
        cov={name: statistics.cov(of_one) for name, of_one in blocks.items()},
        drift={name: statistics.drift(of_one) for name, of_one in blocks.items()},
        noise_floor=floor,
        foreign=load.foreign if load else None,
        stolen=load.stolen if load else None,
    )
    said, reasons = validity.judge(facts)
    return {"verdict": said, "reasons": list(reasons), "noise_floor": round(floor, 4)}
