"""A session in a process of its own: requests go in, answers come out, a crash stays outside.

A message is one line of JSON and, where it says ``"shape"``, so many raw little-endian float32 behind it, or bytes.
The child's standard output is moved to standard error first, so that nothing a runtime prints can break a message.
"""

import contextlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from rescompress import backends, errors
from rescompress.artifact import Artifact, open_artifact
from rescompress.backends import Images
from rescompress.errors import BackendMissing, RescompressError, WorkerCrashed

Array = NDArray[np.float32]
TIMEOUT_S = 600
"""Longest wait for one answer; a batch takes seconds at most."""
WATCHED = {"file": "written_layers", "runtime": "layers"}
"""Functions that a backend may have, by what they watch."""


class Worker:
    """One artifact, or several, loaded in a fresh process. Use it as a context manager.

    Raises:
        WorkerCrashed: the process died, or gave no answer.
        RescompressError: what the child refused, as the same error.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self._folder, self._threads = folder, threads
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit

    def __enter__(self) -> "Worker":
        command = [sys.executable, "-m", "rescompress.worker", str(self._folder), str(self._threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=environment
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def ready(self) -> None:
        """Wait until the artifact is loaded."""
        self._ask({"do": "ready"})

    def load(self, folder: Path) -> None:
        """Load one more artifact in the same process; its place is the count of those before it."""
        self._ask({"do": "load", "folder": str(folder)})

    def run(self, images: Images) -> Array:
        """Images as the artifact takes them to logits ``[n, classes]``, or to what else it gives."""
        answer = self._ask({"do": "run"}, images)
        assert isinstance(answer, np.ndarray)
        return answer

    def hold(self, images: Images, place: int = 0) -> None:
        """Keep a ring of images in the child for ``time``."""
        self._ask({"do": "hold", "place": place}, images)

    def time(self, seconds: float, batch: int, at_least: int = 1, place: int = 0) -> list[int]:
        """Latencies in nanoseconds of so many seconds of batches taken from the ring."""
        answer = self._ask({"do": "time", "seconds": seconds, "batch": batch, "at_least": at_least, "place": place})
        assert isinstance(answer, dict)
        return list(answer["ns"])

    def audit(self) -> dict[str, Any]:
        """The backend's precision report, as JSON."""
        answer = self._ask({"do": "audit"})
        assert isinstance(answer, dict)
        return dict(answer["report"])

    def about(self) -> dict[str, Any]:
        """What the child's backend can prove and show: ``rung``, ``hindrance``, ``has_integers``, ``layers``."""
        answer = self._ask({"do": "about"})
        assert isinstance(answer, dict)
        return answer

    def layers(self, images: Images, of: str) -> dict[str, Array]:
        """What is computed inside, by name: of the ``runtime``, or of the ``file`` op by op."""
        answer, flat = self._exchange({"do": "layers", "of": of}, images)
        assert flat is not None
        ends = np.cumsum([math.prod(shape) for shape in answer["shapes"]])[:-1]
        parts = zip(answer["names"], np.split(flat, ends), answer["shapes"], strict=True)
        return {name: part.reshape(shape) for name, part, shape in parts}

    def _ask(self, request: dict[str, Any], images: Images | None = None) -> dict[str, Any] | Array:
        answer, array = self._exchange(request, images)
        return answer if array is None else cast(Array, array)

    def _exchange(self, request: dict[str, Any], images: Images | None = None) -> tuple[dict[str, Any], Images | None]:
        assert self._process.stdin
        assert self._process.stdout
        watchdog = threading.Timer(TIMEOUT_S, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            _send(self._process.stdin, request, images)
            answer, array = _receive(self._process.stdout)
        except (BrokenPipeError, EOFError):
            raise self._crashed(not watchdog.is_alive()) from None
        finally:
            watchdog.cancel()
        if "error" in answer:
            kind = getattr(errors, answer["error"], RescompressError)
            raise kind(answer["fact"], answer["remedy"])
        return answer, array

    def _crashed(self, late: bool) -> WorkerCrashed:
        code = self._process.wait()
        if late:
            return WorkerCrashed(
                f"The process that ran {self._folder} gave no answer for {TIMEOUT_S} s and was ended.",
                "Use a smaller batch, or look why the runtime hangs on this machine.",
            )
        self._stderr.seek(0)
        said = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        last = said[-1] if said else "it said nothing"
        return WorkerCrashed(
            f"The process that ran {self._folder} died with status {code}: {last}.",
            "Export the artifact again; if it still dies, the runtime has a bug on this machine.",
        )


def _send(pipe: IO[bytes], message: dict[str, Any], array: Images | None = None) -> None:
    if array is not None:
        kind = "u1" if array.dtype == np.uint8 else "<f4"
        array = np.ascontiguousarray(array, dtype=kind)
        message = {**message, "shape": array.shape, "type": kind}
    pipe.write(json.dumps(message).encode() + b"\n")
    if array is not None:
        pipe.write(array.tobytes())
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], Images | None]:
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    message = json.loads(line)
    if "shape" not in message:
        return message, None
    kind = np.dtype(message["type"])
    size = kind.itemsize * int(np.prod(message["shape"]))
    data = pipe.read(size)
    if len(data) != size:
        raise EOFError
    return message, np.frombuffer(data, kind).reshape(message["shape"])


@dataclass
class _Loaded:
    """A session with the images that it is timed on."""

    artifact: Artifact
    session: backends.Session
    ring: Images

    @property
    def backend(self) -> backends.Backend:
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


def _serve(folder: Path, threads: int, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until the parent closes the pipe."""
    order = random.Random(0)  # noqa: S311 - which image comes next is no secret
    with contextlib.ExitStack() as stack:
        loaded = [_load(folder, threads, stack)]
        while True:
            try:
                request, images = _receive(requests)
            except EOFError:
                return
            try:
                if request["do"] == "load":
                    loaded.append(_load(Path(request["folder"]), threads, stack))
                    _send(answers, {})
                else:
                    _send(answers, *_answer(loaded[request.get("place", 0)], request, images, order))
            except RescompressError as error:
                _refuse(answers, error)


def _load(folder: Path, threads: int, stack: contextlib.ExitStack) -> _Loaded:
    artifact = open_artifact(folder)
    session = backends.require(artifact.manifest.backend).load(artifact, threads=threads)
    return _Loaded(artifact, stack.enter_context(session), np.empty((0,), np.float32))


def _answer(
    to: _Loaded, request: dict[str, Any], images: Images | None, order: random.Random
) -> tuple[dict[str, Any], Images | None]:
    """What is said to a request that one session can answer."""
    if request["do"] == "run":
        assert images is not None
        return {}, to.session.run(images)
    if request["do"] == "hold":
        assert images is not None
        to.refuse_stand_ins()
        to.ring = images
    elif request["do"] == "layers":
        assert images is not None
        return _layers(to, images, request["of"])
    elif request["do"] == "about":
        rung, hindrance = to.backend.rung()
        seen = [of for of, function in WATCHED.items() if hasattr(to.backend, function)]
        return {"rung": rung, "hindrance": hindrance, "has_integers": bool(to.backend.SCHEME), "layers": seen}, None
    elif request["do"] == "time":
        return {"ns": _time(to.session, to.ring, request, order)}, None
    elif request["do"] == "audit":
        return {"report": asdict(to.backend.audit(to.artifact))}, None
    return {}, None


def _layers(to: _Loaded, images: Images, of: str) -> tuple[dict[str, Any], Images]:
    """Values inside a network, one behind the other."""
    found: dict[str, Array] = getattr(to.backend, WATCHED[of])(to.artifact, images)
    flat = np.concatenate([array.ravel() for array in found.values()]) if found else np.empty(0, np.float32)
    return {"names": list(found), "shapes": [array.shape for array in found.values()]}, flat


def _refuse(answers: IO[bytes], error: RescompressError) -> None:
    _send(answers, {"error": type(error).__name__, "fact": error.fact, "remedy": error.remedy})


def _time(session: backends.Session, ring: Images, request: dict[str, Any], order: random.Random) -> list[int]:
    """Time single batches, each made ready before its clock starts."""
    batch: int = request["batch"]
    ns: list[int] = []
    end = time.perf_counter_ns() + int(request["seconds"] * 1e9)
    while time.perf_counter_ns() < end or len(ns) < request["at_least"]:
        start = order.randrange(len(ring) - batch + 1)
        images = cast(Images, np.ascontiguousarray(ring[start : start + batch]))
        begin = time.perf_counter_ns()
        session.run(images)
        ns.append(time.perf_counter_ns() - begin)
    return ns


def main() -> None:
    """Serve one artifact: ``python -m rescompress.worker FOLDER THREADS``."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    try:
        _serve(Path(sys.argv[1]), int(sys.argv[2]), requests, answers)
    except RescompressError as error:
        _receive(requests)  # the parent reads an answer only after it has asked
        _refuse(answers, error)


if __name__ == "__main__":
    main()
