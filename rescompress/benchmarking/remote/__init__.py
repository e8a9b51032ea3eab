"""Timing on another machine, agentless: copy, start, look again and again, bring the launches back.

``links`` leads there and ``device`` is what answers; ``lock`` keeps others off; ``jobs`` says what is to be done and
brings it there; of the ``ways`` to do it, ``runner`` is Python's and ``vendors`` holds those without; ``answers`` reads
what came back.
"""

import contextlib
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rescompress.benchmarking import machine
from rescompress.benchmarking.candidates import Candidates
from rescompress.benchmarking.method import Launch, Plan
from rescompress.benchmarking.remote import answers, jobs, ways
from rescompress.benchmarking.remote.device import Device, plain
from rescompress.benchmarking.remote.jobs import Job
from rescompress.benchmarking.remote.links import check, dialled
from rescompress.benchmarking.remote.lock import alive, locked
from rescompress.benchmarking.remote.ways import Clocks, Way
from rescompress.cpu import UNAVAILABLE
from rescompress.errors import RecipeError, RescompressError, ResourceExhausted, WorkerCrashed

PAUSE_S = 2.0
"""Longest time between two looks: each starts a shell on the device, which is busy timing."""
_STARTS = 3
_LAUNCH_S = 600


class Remote:
    """A benchmark that goes on at a device; ``opened`` makes one.

    Attributes:
        device: how it is reached, and its processor; neither its address nor a user.
    """

    def __init__(self, device: Device, way: Way, job: Job, there: str) -> None:
        self._device, self._way, self._before = device, way, device.facts()
        self._texts = _awaited(device, way, job, there)
        self._clocks: list[Clocks | None] = []
        self._after = UNAVAILABLE
        self.device = f"{device.link.kind}: {self._before['processor']}"

    def launch(self) -> Launch:
        """The next launch, as ``method.launch`` gives it, as soon as the device has made it."""
        made, clocks = self._way.read(next(self._texts))
        self._clocks.append(clocks)
        return made

    def look_again(self) -> None:
        """Ask for the load at the end."""
        self._after = self._device.facts()["load average"]

    @property
    def load(self) -> machine.Load | None:
        """What else the device did during all launches; None where it doesn't tell."""
        known = [one for one in self._clocks if one is not None]
        if not known or len(known) < len(self._clocks):
            return None
        total, busy, stolen, ours = (float(value) for value in np.sum(known, axis=0))
        return machine.Load(max(0.0, busy - ours) / total, stolen / total) if total > 0 else None

    def conditions(self) -> dict[str, str]:
        """What may explain the numbers, in words."""
        load = f"{self._before['load average']} before, {self._after} after"
        return {**self._before, "load average": load, **self._way.told}

    def disturbance(self) -> None:
        """Nobody looks at a device's counters while it times."""


def agree(knobs: Mapping[str, Any]) -> None:
    """Refuse what is only done on this machine.

    Raises:
        RecipeError: it was asked for, or the device's address is none.
    """
    if not knobs["device"]:
        return
    check(knobs["device"])
    if knobs["scenario"] != "interleaved" or knobs["profile"] or knobs.get("energy"):
        raise RecipeError("On a device there are no scenarios of LoadGen, profiles or energies.", "Leave them out.")


@contextlib.contextmanager
def opened(address: str, candidates: Candidates, plan: Plan, most: int, seed: int) -> Iterator[Remote]:
    """Begin a benchmark on a device, or go on with it.

    It goes on there when the connection breaks or this process ends; the same call picks up what was finished. On
    success only files by their SHA-256 stay on the device, in ``~/.cache/rescompress/files``.

    Args:
        address: ``ssh://[user@]host[:port]`` or ``adb://serial``.
        candidates: who takes part.
        plan: batch, threads, and how many blocks of which length.
        most: how many launches it may make.
        seed: the order of the blocks is drawn from it.

    Raises:
        RecipeError: the address is none.
        BackendMissing: the device can't be reached, or has neither the runtime nor its vendor's tool.
        InputRefused: its host key isn't the known one, or what it gave back can't be read.
        RunLocked: somebody else times there.
        ResourceExhausted: the connection broke and didn't come back; or its disk is full.
        WorkerCrashed: a runtime died there.
    """
    link = dialled(address)
    try:
        with tempfile.TemporaryDirectory() as name:
            job = jobs.described(candidates, plan, most, seed, Path(name))
            device = Device(link)
            there = f"{device.cache}/jobs/{job.key}"
            with locked(device, address, job.key), _cleared(device, there):
                jobs.copy(job, device, there, Path(name))
                way = ways.chosen(device, job, candidates, there, Path(name))
                remote = Remote(device, way, job, there)
                yield remote
                remote.look_again()
    finally:
        link.close()


@contextlib.contextmanager
def _cleared(device: Device, there: str) -> Iterator[None]:
    """Leave nothing of a job behind, unless the connection broke: then somebody will come back for it."""
    try:
        yield
    except RescompressError as error:
        if not isinstance(error, ResourceExhausted):
            _clear(device, there)
        raise
    _clear(device, there)


def _clear(device: Device, there: str) -> None:
    folder, above = shlex.quote(there), shlex.quote(there.rpartition("/")[0])
    stop = f'p=$(cat {folder}/pid) && {{ kill -- "-$p" || kill "$p"; }}'
    device.ask(f"{{ {alive(there)} && {{ {stop}; }}; rm -rf {folder}; rmdir {above}; }} 2>/dev/null")


def _awaited(device: Device, way: Way, job: Job, there: str) -> Iterator[bytes]:
    """The file of each launch, as soon as it is there."""
    for number in range(job.launches):
        file, failed = f"launch-{number}", f"{there}/failed"
        starts, pause, end = 0, 0.2, time.monotonic() + _LAUNCH_S + 4 * job.seconds
        while True:
            look = f"{{ {alive(there)} && echo alive; ls {file} failed 2>/dev/null; true; }}"
            seen = device.told(f"cd {shlex.quote(there)} && {look}", "find the benchmark's folder").split()
            if "failed" in seen:
                raise answers.failure(device.ask(f"cat {shlex.quote(failed)}").text)
            if file in seen:
                yield device.ask(f"cat {shlex.quote(f'{there}/{file}')}").text
                break
            if "alive" not in seen and starts == _STARTS:
                raise WorkerCrashed(
                    f"What times on the device ended early: {_log(device, there)}.", "Look into it there."
                )
            if time.monotonic() > end:
                raise WorkerCrashed("A launch on the device had no end.", "Look why the runtime hangs there.")
            if "alive" not in seen:
                starts += 1
                _start(device, way, there)
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_S)


def _start(device: Device, way: Way, there: str) -> None:
    """Start the work so that it goes on without us, once."""
    folder = shlex.quote(there)
    apart = 'w=; for one in nohup setsid; do command -v $one >/dev/null 2>&1 && w="$w $one"; done'
    begin = f"{apart}; $w {way.command} {folder} >log 2>&1 </dev/null & echo $! >pid"
    device.told(f"cd {folder} && {{ {alive(there)} || {{ {begin}; }}; }}", "start the benchmark")


def _log(device: Device, there: str) -> str:
    lines = plain(device.ask(f"tail -n 1 {shlex.quote(there)}/log").text.decode("utf-8", "replace"))
    return lines.rstrip(".") or "it said nothing"
