"""Runs a tool in a process of its own, within bounds, and keeps what it made apart by name and content."""

import hashlib
import json
import os
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMEOUT_S = 3600


def run(command: Sequence[object], cap_gb: float, cpus: int | None = None) -> dict[str, Any]:
    """What a tool's process says that it made and what it cost; or ``died``, its last words.

    Args:
        command: ends its output with one line of JSON.
        cap_gb: most address space that it may take.
        cpus: so many of those that this process may use; all if not given.
    """

    def confine() -> None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cpus])
        resource.setrlimit(resource.RLIMIT_AS, (int(cap_gb * 1e9),) * 2)

    begin, words = time.perf_counter(), [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, preexec_fn=confine)
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
    return {"died": said[-1][:300], "seconds": round(time.perf_counter() - begin, 1)}


def digest(*of: Path | str) -> str:
    """One digest of files' bytes and of words."""
    whole = hashlib.sha256()
    for part in of:
        whole.update(hashlib.sha256(part.read_bytes() if isinstance(part, Path) else part.encode()).digest())
    return whole.hexdigest()


def files(entry: Path) -> list[Path]:
    """A model, and its weights where they lie beside it."""
    return [entry, *(other for other in [entry.with_suffix(".bin")] if other.is_file())]


def size(entry: Path) -> int:
    """Bytes of a model with its weights."""
    return sum(part.stat().st_size for part in files(entry))


def slug(name: str) -> str:
    """A name that files can have."""
    return "".join(sign if sign.isalnum() else "_" for sign in name.lower())
