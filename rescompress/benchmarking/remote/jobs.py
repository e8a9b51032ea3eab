"""What a device is asked to do: one JSON document, and the files that it names by their SHA-256."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from rescompress import artifact
from rescompress.artifact import digest, sha256_of
from rescompress.benchmarking import method
from rescompress.benchmarking.candidates import Candidates
from rescompress.benchmarking.method import Plan
from rescompress.benchmarking.remote.device import Device

RUNNER = "runner.py"


@dataclass(frozen=True)
class Job:
    """All launches of one benchmark.

    Attributes:
        document: what ``runner.py`` reads.
        files: those that are needed, by their SHA-256.
        links: what lies where in the job's folder, by its SHA-256.
    """

    document: dict[str, Any]
    files: dict[str, Path]
    links: dict[str, str]

    @property
    def key(self) -> str:
        """32 hexadecimal digits; equal jobs have equal keys, so that one can be gone on with."""
        return digest([self.document, self.links])[:32]

    @property
    def launches(self) -> int:
        """How many."""
        return int(self.document["launches"])

    @property
    def seconds(self) -> float:
        """How long the blocks of one launch take, and the longest warm-up."""
        each = self.document["blocks"] * self.document["block_seconds"] + self.document["warm_up_cap_seconds"]
        return float(len(self.document["candidates"]) * each)

    @property
    def backends(self) -> set[str]:
        """Runtimes that take part."""
        return {candidate["backend"] for candidate in self.document["candidates"]}


def described(candidates: Candidates, plan: Plan, launches: int, seed: int, folder: Path) -> Job:
    """The job that times candidates as ``method.launch`` would here.

    Args:
        candidates: who takes part.
        plan: batch, threads, and how many blocks of which length.
        launches: how many.
        seed: the device draws the order of the blocks from it.
        folder: an empty one, where the images are written to.
    """
    files, links, entries = {}, {}, []
    for place, (one, ring) in enumerate(zip(candidates.artifacts, candidates.rings, strict=True)):
        for name, sha256 in one.manifest.files.items():
            files[sha256], links[f"{place}/{name}"] = one.folder / name, sha256
        images = folder / f"{place}.npy"
        np.save(images, np.ascontiguousarray(ring), allow_pickle=False)
        sha256 = sha256_of(images)
        files[sha256], links[f"{place}.npy"] = images, sha256
        entries.append({
            "backend": one.manifest.backend, "entry": one.manifest.entry, "ring": images.name,
            "floats": one.manifest.floats, "pixels": one.manifest.takes_pixels,
        })  # fmt: skip
    runner = folder / RUNNER
    runner.write_text(resources.files(__package__).joinpath(RUNNER).read_text("utf-8"), "utf-8")
    files[sha256_of(runner)], links[RUNNER] = runner, sha256_of(runner)
    shortest = min(len(ring) for ring in candidates.rings) - plan.batch + 1
    document = {
        "batch": plan.batch, "threads": plan.threads, "blocks": plan.blocks, "block_seconds": plan.block_seconds,
        "launches": launches, "seed": seed, "lead_in": method._LEAD_IN,
        "checked": min(method._CHECKED_IMAGES, shortest),
        "window_seconds": method._WINDOW_SECONDS, "window_queries": method._WINDOW_QUERIES, "steady": method._STEADY,
        "warm_up_cap_seconds": method._WARM_UP_CAP_SECONDS, "fewest_rounds": method._FEWEST_ROUNDS,
        "candidates": entries,
        "files": {name: sha256 for name, sha256 in links.items() if name != RUNNER},
    }  # fmt: skip
    return Job(document, files, links)


def copy(job: Job, device: Device, there: str, folder: Path) -> None:
    """Bring everything to the device that isn't there yet, and lay it out.

    Args:
        job: what is to be done.
        device: locked.
        there: the job's folder on the device.
        folder: a local one, where the document is written to.
    """
    cache = shlex.quote(f"{device.cache}/files")
    device.told(f"umask 077; mkdir -p {cache} {shlex.quote(there)}", "make a folder")
    have = device.told(f"cd {cache} && ls", "list its files").split()
    for sha256, path in job.files.items():
        if sha256 not in have:
            device.place(path, f"{device.cache}/files/{sha256}")
    for lines in _laid_out(job):
        device.told(f"cd {shlex.quote(there)} && {lines}", "lay its files out")
    document = folder / "job.json"
    artifact.write_bytes(document, json.dumps(job.document, sort_keys=True).encode())
    device.place(document, f"{there}/job.json")


def _laid_out(job: Job) -> Iterator[str]:
    """Scripts that link the files to where the job wants them; several, because a command line has an end."""
    links = [(shlex.quote(name), sha256, "../" * (2 + name.count("/"))) for name, sha256 in job.links.items()]
    for start in range(0, len(links), 20):
        yield " && ".join(
            f'mkdir -p "$(dirname {name})" && ln -sf {up}files/{sha256} {name}'
            for name, sha256, up in links[start : start + 20]
        )
