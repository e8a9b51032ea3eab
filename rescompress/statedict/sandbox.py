"""A file is read in a process of its own, which is fresh, limited and watched, and gives back safetensors.

A limit that breaks, a crash or a hang ends that process, never this one. The limits are generous for a file of the
given size and far from what a lying file asks for. Where the system has no such limits, only the clock watches.
"""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from rescompress import errors
from rescompress.errors import BackendMissing, InputRefused, ResourceExhausted

TIMEOUT_S = 300
"""Longest wait for a small file: seconds, and minutes on a machine that is all but stuck."""
BYTES_PER_S = 10 * 2**20
MEMORY_BYTES, GROWTH = 2 * 2**30, 4
"""Address space beyond what the process has before it opens the file, and how often the file may lie in memory."""
SLACK_BYTES = 16 * 2**20
PACKAGES = Path(__file__).parents[2]
NEEDS = {"hdf5": ("h5py", "weights of Keras", "keras"), "onnx": ("onnx", "an ONNX graph", "onnx")}
"""For each kind of file that PyTorch can't read: the package that can, what the file holds, and the extra."""


@dataclass(frozen=True)
class Limits:
    """What a process may take: address space on top of its own, the size of one file, processor time."""

    memory_bytes: int
    file_bytes: int
    processor_s: int


def limits(size_bytes: int) -> Limits:
    """The limits for reading a file of this size."""
    return Limits(
        MEMORY_BYTES + GROWTH * size_bytes, SLACK_BYTES + GROWTH * size_bytes, TIMEOUT_S + size_bytes // BYTES_PER_S
    )


def read(kind: str, path: Path) -> dict[str, Tensor]:
    """Tensors by name out of a file that ``scan`` has let through.

    Raises:
        InputRefused: what the process found wrong, or that the file made it crash.
        ResourceExhausted: the process was ended by a limit, the clock or the system.
        BackendMissing: the package that reads this kind is not installed.
    """
    package, what, extra = NEEDS.get(kind, ("torch", "", ""))
    if importlib.util.find_spec(package) is None:
        raise BackendMissing(
            f"{path} holds {what}, and {package} is not installed.", f"Install it: pip install 'rescompress[{extra}]'."
        )
    granted = limits(path.stat().st_size)
    with tempfile.TemporaryDirectory(prefix="rescompress-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "empty").mkdir()
        target = folder / "tensors.safetensors"
        status, said = _run(_command(kind, path.resolve(), target, granted), folder, granted.processor_s)
        if status is None:
            raise ResourceExhausted(f"{path} was not read within {granted.processor_s} s.", _SUSPECT)
        if status:
            raise _failure(path, status, said)
        try:
            tensors: dict[str, Tensor] = load(target.read_bytes())
            return dict(sorted(tensors.items()))
        except (OSError, SafetensorError):
            raise InputRefused(f"{path} ended the process that read it.", _SUSPECT) from None


_SUSPECT = "Check where the file comes from; if you trust it, free memory and disk space and try again."


def _command(kind: str, source: Path, target: Path, granted: Limits) -> list[str]:
    own = [sys.executable, "-m", "rescompress.statedict"]
    return [*own, kind, str(source), str(target), json.dumps(asdict(granted))]


def _run(command: list[str], folder: Path, seconds: float) -> tuple[int | None, bytes]:
    """Exit status and standard output; no status if the process took too long and was killed with its children."""
    paths = [str(PACKAGES), *(os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HDF5_PLUGIN_PRELOAD": "::",  # HDF5 then loads no shared library that a file asks for
    }
    with (folder / "said").open("w+b") as out, (folder / "errors").open("wb") as complaints:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=complaints,
            cwd=folder / "empty",
            env=environment,
            start_new_session=True,
        )
        try:
            # Who reads weights captures a graph next. What PyTorch imports for it takes a second, here well spent.
            importlib.import_module("torch._dynamo")
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None, b""
        finally:
            if process.poll() is None:
                _end(process)
        out.seek(0)
        return process.returncode, out.read(2**16)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that runs, and its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _failure(path: Path, status: int, said: bytes) -> errors.RescompressError:
    """What the process said, or what its status says."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        answer = json.loads(said.splitlines()[-1] if said else b"")
        kind = {"InputRefused": InputRefused, "ResourceExhausted": ResourceExhausted}[answer["error"]]
        return kind(f"{path} {answer['fact']}", answer["remedy"])
    if status in (-signal.SIGSEGV, -signal.SIGABRT, -getattr(signal, "SIGBUS", 0)) or status > 0:
        return InputRefused(f"{path} crashed the process that read it (status {status}).", _SUSPECT)
    return ResourceExhausted(f"The system ended the process that read {path} (status {status}).", _SUSPECT)
