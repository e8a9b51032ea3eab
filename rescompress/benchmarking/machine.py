"""What the numbers were measured on: processor, instruction sets, releases, and what else the machine was doing.

Nothing here names the host, a user or a path, so that a report can be published as it is.
"""

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from rescompress.artifact import digest
from rescompress.cpu import UNAVAILABLE, cpu_model, instruction_sets, told
from rescompress.spec import Environment

_PACKAGES = (
    "rescompress", "numpy", "torch", "torchvision", "torch-pruning", "safetensors", "timm", "transformers",
    "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "coremltools", "ai-edge-litert",
)  # fmt: skip


@dataclass(frozen=True)
class Clock:
    """Seconds since the machine started, over all cores, and those that this process and its children used."""

    total: float
    busy: float
    stolen: float
    ours: float


@dataclass(frozen=True)
class Load:
    """Shares, from 0 to 1, of the machine's CPU time that went elsewhere."""

    foreign: float
    stolen: float


def environment() -> Environment:
    """The machine and the releases. What this system does not tell is ``unavailable``."""
    known = told()
    return Environment(
        machine=platform.machine() or UNAVAILABLE,
        cpu=cpu_model(known),
        cores=_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        isa=instruction_sets(known),
        packages=_packages(),
    )


def fingerprint(environment: Environment) -> str:
    """16 hexadecimal digits; numbers of equal fingerprints may be compared."""
    return digest(asdict(environment))[:16]


def clock() -> Clock | None:
    """Read the machine's clocks; None where there is no ``/proc/stat``."""
    try:
        stat = Path("/proc/stat").read_text("ascii")
    except OSError:
        return None
    own = os.times()
    ours = own.user + own.system + own.children_user + own.children_system
    return parse_clock(stat, os.sysconf("SC_CLK_TCK"), ours)


def parse_clock(stat: str, ticks_per_second: int, ours: float) -> Clock:
    """The first line of ``/proc/stat``: user, nice, system, idle, iowait, irq, softirq, steal, in ticks (proc(5))."""
    ticks = [int(field) / ticks_per_second for field in stat.split("\n", 1)[0].split()[1:9]]
    user, nice, system, idle, waiting, irq, softirq, stolen = ticks
    busy = user + nice + system + irq + softirq
    return Clock(busy + idle + waiting + stolen, busy, stolen, ours)


def load(before: Clock | None, after: Clock | None) -> Load | None:
    """What others did between two readings. Children count as ours once they have ended and were waited for."""
    if before is None or after is None or after.total <= before.total:
        return None
    total = after.total - before.total
    foreign = (after.busy - before.busy) - (after.ours - before.ours)
    # the machine counts whole ticks and a process its nanoseconds, so the difference may be a little below 0
    return Load(max(0.0, foreign) / total, (after.stolen - before.stolen) / total)


def _cores() -> int:
    """Cores that this process may use: a container or ``taskset`` may leave it fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
