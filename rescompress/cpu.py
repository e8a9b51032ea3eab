"""Which processor this is, and which integer kernels runtimes use on such a one."""

import platform
import re
import subprocess
from pathlib import Path
from typing import Literal

Cpu = Literal["auto", "avx2", "vnni", "arm"]
"""The processor an INT8 model is made for: ``auto`` is the one this runs on."""
Kernels = Literal["avx2", "vnni", "arm"]
"""``avx2`` is any x86 without VNNI, AVX-512 or not: two products of u8 and s8 are added in 16 bits and saturate."""
UNAVAILABLE = "unavailable"

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


def kernels(cpu: Cpu, isa: tuple[str, ...] | None = None) -> Kernels:
    """The integer kernels that runtimes use on a processor.

    Args:
        cpu: as the user says it.
        isa: instruction sets of this machine; read off it where they are not given. One that tells none counts as x86
            without VNNI, whose kernels are the ones to be careful with.
    """
    if cpu != "auto":
        return cpu
    isa = instruction_sets(told()) if isa is None else isa
    if "neon" in isa:
        return "arm"
    return "vnni" if {"avx_vnni", "avx512_vnni"} & set(isa) else "avx2"


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


def told() -> str:
    """What the system tells about its processor; empty where it tells nothing."""
    try:
        if platform.system() == "Darwin":
            command = ["/usr/sbin/sysctl", "machdep.cpu.brand_string", "hw.optional"]
            return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout
        return Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return ""
