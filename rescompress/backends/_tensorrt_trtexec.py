"""NVIDIA's ``trtexec``: its command line, the same question to TensorRT 10 and 11, and what it measured.

In 11 three defaults are the other way round (`samples/common/sampleOptions.cpp`, v10.16 against v11.1): CUDA graph and
spin wait are on, copies to and from the GPU are left out, and the old flags only warn.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rescompress.errors import BenchmarkInvalid

WARM_UP_MS = 500
FEWEST = 100
OF_11 = "--noCudaGraph"
"""A flag that only the help of 11 knows."""
Shape = tuple[str, Sequence[int]]


@dataclass(frozen=True)
class Times:
    """Milliseconds of each query on the GPU's own clock: copies to it, its work, copies back."""

    h2d_ms: tuple[float, ...]
    compute_ms: tuple[float, ...]
    d2h_ms: tuple[float, ...]


def found() -> str | None:
    """The path of ``trtexec``, or None."""
    return shutil.which("trtexec")


def command(
    program: str, engine: Path, shape: Shape | None, times: Path, *, seconds: int, transfers: bool, of_11: bool
) -> list[str]:
    """The command that times an engine with a CUDA graph and a spin wait, whatever the release's defaults.

    Args:
        program: path of ``trtexec``.
        engine: to time; loading it runs its code.
        shape: name and shape of the input; None where the engine's is fixed.
        times: JSON file to write.
        seconds: how long, after the warm-up.
        transfers: copy images to the GPU and answers back each time.
        of_11: the program's defaults are those of TensorRT 11.
    """
    if of_11:
        pinned = ["--includeDataTransfers"] if transfers else []
    else:
        pinned = ["--useCudaGraph", "--useSpinWait", *([] if transfers else ["--noDataTransfers"])]
    shapes = [f"--shapes={shape[0]}:{'x'.join(map(str, shape[1]))}"] if shape else []
    asked = [f"--warmUp={WARM_UP_MS}", f"--duration={seconds}", f"--iterations={FEWEST}", f"--exportTimes={times}"]
    return [program, f"--loadEngine={engine}", *shapes, *asked, *pinned]


def run(engine: Path, shape: Shape | None, *, seconds: int, transfers: bool) -> Times:
    """Time an engine that is known to be our own.

    Raises:
        BenchmarkInvalid: ``trtexec`` failed.
    """
    program = found() or "trtexec"
    said = subprocess.run([program, "--help"], capture_output=True, text=True, check=False, timeout=60)
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        of_11 = OF_11 in said.stdout + said.stderr
        line = command(program, engine, shape, times, seconds=seconds, transfers=transfers, of_11=of_11)
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60 + 10 * seconds)
        if done.returncode or not times.is_file():
            last = [text for text in (done.stdout + done.stderr).splitlines() if text.strip()][-1:]
            raise BenchmarkInvalid(
                f"trtexec ended with status {done.returncode}: {''.join(last).strip()}.", "Time without it."
            )
        return read(times.read_text())


def read(text: str) -> Times:
    """What ``--exportTimes`` wrote: a list with a mapping a query."""
    queries = json.loads(text)
    h2d, compute, d2h = (tuple(float(query[key]) for query in queries) for key in ("h2dMs", "computeMs", "d2hMs"))
    return Times(h2d, compute, d2h)
