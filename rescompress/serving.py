"""What runs in a worker's process: sessions that answer requests until the pipe is closed.

Standard output is moved to standard error first, so that nothing a runtime prints can break a message.
"""

import contextlib
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from rescompress import backends, loadgen
from rescompress.artifact import Artifact, open_artifact
from rescompress.backends import Images
from rescompress.errors import BackendMissing, RescompressError
from rescompress.pipes import Message, receive, send

Array = NDArray[np.float32]
WATCHED = {"file": "written_layers", "runtime": "layers"}
"""Functions that a backend may have, by what they watch."""


@dataclass
class Loaded:
    """A session with the images that it is timed on, and what it paid for its start.

    Attributes:
        artifact: that was loaded.
        session: that runs it.
        ready_s: when it was loaded, on the machine's monotonic clock, in seconds.
        ring: images that batches are cut from.
        order: which image comes next.
        first_ms: its first query, once there was one.
    """

    artifact: Artifact
    session: backends.Session
    ready_s: float
    ring: Images = field(default_factory=lambda: np.empty((0,), np.float32))
    order: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - it is no secret
    first_ms: float | None = None

    @property
    def backend(self) -> backends.Backend:
        """The artifact's."""
        return backends.require(self.artifact.manifest.backend)

    def refuse_stand_ins(self) -> None:
        """Nothing is timed but the runtime itself, on its own device.

        Raises:
            BackendMissing: something else stands in for it here.
        """
        rung, hindrance = self.backend.rung()
        if rung != "L3":
            name = self.artifact.manifest.backend
            raise BackendMissing(f"{name} can't be timed here: {hindrance}", "Time it on the device that it is for.")


def main() -> None:
    """Serve one artifact: ``python -m rescompress.worker FOLDER THREADS``."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    try:
        _serve(Path(sys.argv[1]), int(sys.argv[2]), requests, answers)
    except RescompressError as error:
        receive(requests)  # the parent reads an answer only after it has asked
        _refuse(answers, error)


def _serve(folder: Path, threads: int, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until the parent closes the pipe."""
    with contextlib.ExitStack() as stack:
        loaded = [_load(folder, threads, stack)]
        while True:
            try:
                request, images = receive(requests)
            except EOFError:
                return
            try:
                if request["do"] == "load":
                    loaded.append(_load(Path(request["folder"]), threads, stack))
                    send(answers, {})
                else:
                    send(answers, *_ANSWERS[request["do"]](loaded[request.get("place", 0)], request, images))
            except RescompressError as error:
                _refuse(answers, error)


def _load(folder: Path, threads: int, stack: contextlib.ExitStack) -> Loaded:
    artifact = open_artifact(folder)
    session = backends.require(artifact.manifest.backend).load(artifact, threads=threads)
    return Loaded(artifact, stack.enter_context(session), time.monotonic())


def _refuse(answers: IO[bytes], error: RescompressError) -> None:
    send(answers, {"error": type(error).__name__, "fact": error.fact, "remedy": error.remedy})


def _ready(to: Loaded, request: dict[str, Any], images: Images | None) -> Message:
    return {"ready_s": to.ready_s}, None


def _run(to: Loaded, request: dict[str, Any], images: Images | None) -> Message:
    assert images is not None
    begin = time.perf_counter_ns()
    answer = to.session.run(images)
    if to.first_ms is None:
        to.first_ms = (time.perf_counter_ns() - begin) / 1e6
    return {}, answer


def _hold(to: Loaded, request: dict[str, Any], images: Images | None) -> Message:
    assert images is not None
    to.refuse_stand_ins()
    to.ring = images
    return {}, None


def _time(to: Loaded, request: dict[str, Any], images: Images | None) -> Message:
    """Time single batches, each made ready before its clock starts."""
    batch: int = request["batch"]
    ns, compute_ns = list[int](), list[int]()
    end = time.perf_counter_ns() + int(request["seconds"] * 1e9)
    while time.perf_counter_ns() < end or len(ns) < request["at_least"]:
        start = to.order.randrange(len(to.ring) - batch + 1)
        shown = cast(Images, np.ascontiguousarray(to.ring[start : start + batch]))
        begin = time.perf_counter_ns()
        to.session.run(shown)
        ns.append(time.perf_counter_ns() - begin)
        computed = getattr(to.session, "compute_ns", None)
        if computed is not None:
            compute_ns.append(computed)
    return {"ns": ns, "compute_ns": compute_ns}, None


def _loadgen(to: Loaded, request: dict[str, Any], images: Images | None) -> Message:
    return asdict(loadgen.ask(to.session, to.ring, loadgen.Traffic(**request["traffic"]))), None


def _cold(to: Loaded, request: dict[str, Any], images: Images | None) -> Message:
    return {"ready_s": to.ready_s, "first_ms": to.first_ms, "peak_rss_bytes": peak_rss_bytes()}, None


def peak_rss_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Largest resident memory of this process so far; None where there is no ``/proc``.

    Not ``getrusage``: a process starts there with the peak of the one that it was forked from.
    """
    try:
        lines = status.read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _audit(to: Loaded, request: dict[str, Any], images: Images | None) -> Message:
    return {"report": asdict(to.backend.audit(to.artifact))}, None


def _about(to: Loaded, request: dict[str, Any], images: Images | None) -> Message:
    rung, hindrance = to.backend.rung()
    seen = [of for of, function in WATCHED.items() if hasattr(to.backend, function)]
    return {"rung": rung, "hindrance": hindrance, "has_integers": bool(to.backend.SCHEME), "layers": seen}, None


def _profile(to: Loaded, request: dict[str, Any], images: Images | None) -> Message:
    """Time of each layer, where the backend can tell; in a session of its own, because telling slows it down."""
    assert images is not None
    to.refuse_stand_ins()
    if not isinstance(to.backend, backends.Profiled):
        return {"profile": None}, None
    return {"profile": asdict(to.backend.profile(to.artifact, images, threads=request["threads"]))}, None


def _layers(to: Loaded, request: dict[str, Any], images: Images | None) -> Message:
    """Values inside a network, one behind the other."""
    assert images is not None
    found: dict[str, Array] = getattr(to.backend, WATCHED[request["of"]])(to.artifact, images)
    flat = np.concatenate([array.ravel() for array in found.values()]) if found else np.empty(0, np.float32)
    return {"names": list(found), "shapes": [array.shape for array in found.values()]}, flat


_ANSWERS: dict[str, Callable[[Loaded, dict[str, Any], Images | None], Message]] = {
    "ready": _ready,
    "run": _run,
    "hold": _hold,
    "time": _time,
    "loadgen": _loadgen,
    "cold": _cold,
    "audit": _audit,
    "about": _about,
    "layers": _layers,
    "profile": _profile,
}
