"""What the numbers were measured on: processor, instruction sets, releases, and what else the machine was doing.

Nothing here names the host, a user or a path, so that a report can be published as it is.
"""

import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from rescompress.artifact import digest
from rescompress.spec import Environment

UNAVAILABLE = "unavailable"

_PACKAGES = (
    "rescompress", "numpy", "torch", "torchvision", "torch-pruning", "safetensors", "timm", "transformers",
    "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "coremltools", "ai-edge-litert",
)  # fmt: skip

_ISA = {
    "avx2": "avx2",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "asimddp": "neon_dotprod",
    "i8mm": "neon_i8mm",
    "sve": "sve",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.neon": "neon",
    "hw.optional.arm.FEAT_DotProd": "neon_dotprod",
    "hw.optional.arm.FEAT_I8MM": "neon_i8mm",
}
"""Instruction sets that decide how fast float32 and INT8 convolutions are, by the names that Linux and macOS use."""


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
    told = _told()
    return Environment(
        machine=platform.machine() or UNAVAILABLE,
        cpu=cpu_model(told),
        cores=_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        isa=instruction_sets(told),
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


def cpu_model(told: str) -> str:
    """The processor's name in ``/proc/cpuinfo`` or in what macOS's ``sysctl`` says."""
    for key in ("machdep.cpu.brand_string", "model name", "Model"):
        found = re.search(rf"^{re.escape(key)}\s*: *(.+)$", told, re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    # an Arm kernel gives numbers only: 0x41 is Arm Ltd., 0xd0c a Neoverse N1
    maker, part = (re.search(rf"^CPU {word}\s*: *(\S+)$", told, re.MULTILINE) for word in ("implementer", "part"))
    return f"implementer {maker[1]} part {part[1]}" if maker and part else UNAVAILABLE


def instruction_sets(told: str) -> tuple[str, ...]:
    """Those that matter for convolutions, sorted; the same sources as for the name."""
    lines = re.findall(r"^(?:flags|Features)\s*: *(.+)$", told, re.MULTILINE)
    flags = set(" ".join(lines).split())
    flags |= set(re.findall(r"^(hw\.optional\.\S+): 1$", told, re.MULTILINE))
    return tuple(sorted({_ISA[flag] for flag in flags if flag in _ISA}))


def _told() -> str:
    """What the system tells about its processor."""
    try:
        if platform.system() == "Darwin":
            command = ["/usr/sbin/sysctl", "machdep.cpu.brand_string", "hw.optional"]
            return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout
        return Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return ""


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
