"""How a job is done on a device: by its Python, where that has the runtimes, else by the vendors' tools."""

import json
import os
import random
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rescompress.benchmarking.candidates import Candidates
from rescompress.benchmarking.method import Launch
from rescompress.benchmarking.remote import answers, runner, vendors
from rescompress.benchmarking.remote.device import PATH, Device, plain
from rescompress.benchmarking.remote.jobs import RUNNER, Job
from rescompress.errors import BackendMissing

PYTHON = "RESCOMPRESS_DEVICE_PYTHON"
"""Names the Python on the device that has the runtimes, such as ``/opt/venv/bin/python``; else ``python3`` is asked."""
_PROBE = """
import importlib.util, json, sys
found = {"Python": ".".join(map(str, sys.version_info[:3]))}
from importlib import metadata
def has(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
for backend, modules in dict(MODULES, numpy=("numpy",)).items():
    for name in filter(has, modules):
        package = name.split(".")[0]
        try:
            found.setdefault(backend, metadata.version(package))
        except metadata.PackageNotFoundError:
            found.setdefault(backend, "of unknown release")
print(json.dumps(found) if sys.version_info >= (3, 8) else "{}")
"""
Clocks = tuple[float, float, float, float]


@dataclass(frozen=True)
class Way:
    """How a job is done.

    Attributes:
        command: starts it, in a shell; the job's folder is put behind.
        told: releases of what takes part.
        read: a launch, and the device's clocks if it told them, out of the launch's file.
    """

    command: str
    told: dict[str, str]
    read: Callable[[bytes], tuple[Launch, Clocks | None]]


def chosen(device: Device, job: Job, candidates: Candidates, there: str, folder: Path) -> Way:
    """The best way that the device has.

    Args:
        device: locked.
        job: what is to be done.
        candidates: who takes part.
        there: the job's folder on the device.
        folder: a local one, where a script is written to.

    Raises:
        BackendMissing: there is none.
    """
    python = os.environ.get(PYTHON) or "python3"
    probe = _PROBE.replace("MODULES", repr(runner.MODULES))
    said = device.ask(f"{shlex.quote(python)} -c {shlex.quote(probe)} 2>/dev/null")
    told = _versions(said.text)
    missing = job.backends - set(told)
    if not missing and "numpy" in told:
        kept = {name: release for name, release in told.items() if name in {*job.backends, "Python", "numpy"}}

        def read(text: bytes) -> tuple[Launch, Clocks | None]:
            launch, answer = answers.launch(text, job.document)
            return launch, answer.clocks

        return Way(f"{shlex.quote(python)} {shlex.quote(f'{there}/{RUNNER}')}", kept, read)
    programs = _programs(device, job.backends)
    absent = job.backends - set(programs)
    if absent:
        name = sorted(absent)[0]
        raise BackendMissing(
            f"The device has no Python 3.8 or later with NumPy and {name}, and no tool of the vendor's for it.",
            f"Install {name} there for python3, or name another Python of the device's in {PYTHON}.",
        )
    return _by_tools(device, job, candidates, there, folder, programs)


def _by_tools(
    device: Device, job: Job, candidates: Candidates, there: str, folder: Path, programs: dict[str, str]
) -> Way:
    document, order = job.document, random.Random(job.document["seed"])  # noqa: S311 - the order is no secret
    everyone = range(len(candidates.artifacts))
    turns = [order.sample(everyone, len(everyone)) for _ in range(document["launches"])]
    script = folder / "run.sh"
    script.write_text(
        vendors.script(candidates.artifacts, programs, turns, (document["batch"], document["threads"])), "utf-8"
    )
    device.place(script, f"{there}/run.sh")
    backends = tuple(one.manifest.backend for one in candidates.artifacts)

    def read(text: bytes) -> tuple[Launch, Clocks | None]:
        times = vendors.read(text.decode("utf-8", "replace"), backends)
        blocks = tuple((np.array(ns, np.int64),) for ns in times)
        nothing = tuple(np.empty((0, 0), np.float32) for _ in times)
        own = tuple(block if name == "tensorrt" else block[:0] for name, (block,) in zip(backends, blocks, strict=True))
        return Launch(blocks, nothing, (True,) * len(times), compute_ns=own, caveats=caveats), None

    caveats = tuple(vendors.TOOLS[name].caveat for name in sorted(programs))
    told = {vendors.TOOLS[name].program: path.rsplit("/", 1)[-1] for name, path in programs.items()}
    return Way(f"sh {shlex.quote(f'{there}/run.sh')}", told, read)


def _programs(device: Device, backends: set[str]) -> dict[str, str]:
    """Where the vendors' tools are on the device, by the backend that they time."""
    found = {}
    for name in sorted(backends & set(vendors.TOOLS)):
        tool = vendors.TOOLS[name]
        tries = [tool.program, *(f"{place}/{tool.program}" for place in tool.places)]
        said = device.ask("; ".join(f"command -v {shlex.quote(one)} && exit" for one in tries) + "; true")
        path = said.text.decode("utf-8", "replace").strip()
        if PATH.fullmatch(path):
            found[name] = path
    return found


def _versions(text: bytes) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return {plain(str(name)): plain(str(value)) for name, value in found.items()} if isinstance(found, dict) else {}
