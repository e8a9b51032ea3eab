"""A session in a process of its own: requests go in, answers come out, a crash stays outside.

This is the parent's side; ``serving`` is the child's, and ``pipes`` is what they speak.
"""

import contextlib
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from rescompress import errors
from rescompress.backends import Images
from rescompress.errors import RescompressError, WorkerCrashed
from rescompress.loadgen import Answered, Traffic
from rescompress.pipes import receive, send
from rescompress.timing import ColdRow, ProfileRow

Array = NDArray[np.float32]
TIMEOUT_S = 600
"""Longest wait for one answer, beyond the seconds that were asked for; a batch takes seconds at most."""


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
        self._started_s = time.monotonic()
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

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

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
        """Latencies in nanoseconds of so many seconds of batches taken from the ring.

        ``compute_ns`` holds what they took by the device's own clock; nothing where there is none.
        """
        answer = self._ask({"do": "time", "seconds": seconds, "batch": batch, "at_least": at_least, "place": place})
        assert isinstance(answer, dict)
        self.compute_ns: list[int] = answer["compute_ns"]
        return list(answer["ns"])

    def loadgen(self, traffic: Traffic) -> Answered:
        """What LoadGen saw when it asked for the images of the ring."""
        seconds = max(traffic.seconds, traffic.queries / traffic.qps if traffic.qps else 0)
        answer = self._ask({"do": "loadgen", "traffic": asdict(traffic), "seconds": seconds})
        assert isinstance(answer, dict)
        return Answered(**answer)

    def cold(self) -> ColdRow:
        """What this process paid until now: its start, its first query, and its memory."""
        answer = self._ask({"do": "cold"})
        assert isinstance(answer, dict)
        load_ms = (answer["ready_s"] - self._started_s) * 1e3
        return ColdRow(load_ms, answer["first_ms"], answer["peak_rss_bytes"])

    def audit(self) -> dict[str, Any]:
        """The backend's precision report, as JSON."""
        answer = self._ask({"do": "audit"})
        assert isinstance(answer, dict)
        return dict(answer["report"])

    def profile(self, images: Images) -> ProfileRow | None:
        """Where the time of a query of these images goes; None where the backend can't tell."""
        answer = self._ask({"do": "profile", "threads": self._threads}, images)
        assert isinstance(answer, dict)
        return TypeAdapter(ProfileRow).validate_python(answer["profile"]) if answer["profile"] else None

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
        watchdog = threading.Timer(TIMEOUT_S + request.get("seconds", 0), self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            send(self._process.stdin, request, images)
            answer, array = receive(self._process.stdout)
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


if __name__ == "__main__":
    from rescompress.serving import main

    main()
