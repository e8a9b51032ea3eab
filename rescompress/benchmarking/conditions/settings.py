"""How a machine is set up: governor, turbo, threads per core, power, virtual or not, and variables that matter."""

import os
import re
from collections.abc import Mapping

from rescompress.benchmarking.conditions.files import CPUS, Files, listed
from rescompress.cpu import UNAVAILABLE

VARIABLES = (
    *("OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "OMP_DYNAMIC", "OMP_SCHEDULE"),
    *("KMP_AFFINITY", "KMP_BLOCKTIME", "KMP_HW_SUBSET", "GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT"),
    *("MKL_NUM_THREADS", "MKL_DYNAMIC", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE"),
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "ATEN_CPU_CAPABILITY"),
    *("ORT_DISABLE_ALL_OPTIMIZATION", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "TF_ENABLE_ONEDNN_OPTS"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING"),
    *("CUDA_DEVICE_MAX_CONNECTIONS", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "MALLOC_ARENA_MAX", "MALLOC_CONF", "LD_PRELOAD"),
)
"""Variables that runtimes read and that change how fast they are; no other is told."""
TELLING = re.compile(r"[/\\]|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}")
"""A path or a device's serial number: such a value says who we are, so only that it is set is told."""
DMI = "sys/class/dmi/id"
CONTAINERS = ("docker", "kubepods", "containerd", "libpod", "lxc", "garden")


def settings(files: Files, variables: Mapping[str, str]) -> dict[str, str]:
    """What stays as it is while something is timed, by its usual name.

    Args:
        files: the system's.
        variables: of the environment.
    """
    cpuinfo = files.text("proc/cpuinfo") or ""
    return {
        "governor": listed(files.texts(f"{CPUS}/cpu[0-9]*/cpufreq/scaling_governor")),
        "turbo": _turbo(files),
        "SMT": _smt(files),
        "affinity": _affinity(),
        "isolated CPUs": files.text(f"{CPUS}/isolated") or ("none" if files.found(f"{CPUS}/isolated") else UNAVAILABLE),
        "microcode": listed(re.findall(r"^microcode\s*: *(\S+)$", cpuinfo, re.MULTILINE)),
        "huge pages": _chosen(files.text("sys/kernel/mm/transparent_hugepage/enabled")),
        "power supply": _power_supply(files),
        "power mode": _power_mode(files),
        "container": _container(files),
        "virtualization": _virtualization(files, cpuinfo),
        "variables": _variables(variables),
    }


def _turbo(files: Files) -> str:
    """``intel_pstate`` says that it is off, every other driver that it is on (kernel.org, admin-guide/pm)."""
    off, on = files.number(f"{CPUS}/intel_pstate/no_turbo"), files.number(f"{CPUS}/cpufreq/boost")
    if off is None and on is None:
        return UNAVAILABLE
    return "on" if off == 0 or (off is None and on == 1) else "off"


def _smt(files: Files) -> str:
    active = files.number(f"{CPUS}/smt/active")
    return UNAVAILABLE if active is None else "on" if active else "off"


def _affinity() -> str:
    """The CPUs that this process and its children may use, as ranges."""
    if not hasattr(os, "sched_getaffinity"):
        return UNAVAILABLE
    return ranges(sorted(os.sched_getaffinity(0)))


def ranges(numbers: list[int]) -> str:
    """Growing numbers as the kernel writes them: ``0-3,8``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def _chosen(said: str | None) -> str:
    """The word in brackets, as in ``always [madvise] never``."""
    found = re.search(r"\[(\w+)\]", said or "")
    return found[1] if found else UNAVAILABLE


def _power_supply(files: Files) -> str:
    """Mains or battery. A machine without either has no say: it may be a server, or the system hides them."""
    kinds = {path.parent: files.text(path) for path in files.found("sys/class/power_supply/*/type")}
    mains = [files.number(folder / "online") for folder, kind in kinds.items() if kind in ("Mains", "USB")]
    batteries = [files.text(folder / "status") for folder, kind in kinds.items() if kind == "Battery"]
    if 1 in mains:
        return "mains"
    if "Discharging" in batteries:
        return "battery"
    return "mains" if batteries and set(batteries) <= {"Charging", "Full", "Not charging"} else UNAVAILABLE


def _power_mode(files: Files) -> str:
    """A Jetson's ``nvpmodel``, by name where its table is there; else the platform's profile."""
    status = re.search(r"pmode:0*(\d+)", files.text("var/lib/nvpmodel/status") or "")
    if not status:
        return files.text("sys/firmware/acpi/platform_profile") or UNAVAILABLE
    table = files.text("etc/nvpmodel.conf") or ""
    name = re.search(rf"<\s*POWER_MODEL\s+ID={status[1]}\s+NAME=(\S+)\s*>", table)
    return f"nvpmodel {status[1]} ({name[1]})" if name else f"nvpmodel {status[1]}"


def _container(files: Files) -> str:
    marks = {".dockerenv": "docker", "run/.containerenv": "podman"}
    seen = [name for mark, name in marks.items() if files.found(mark)]
    groups = f"{files.text('proc/self/cgroup') or ''} {files.text('proc/1/cgroup') or ''}"
    seen += [name for name in CONTAINERS if f"/{name}" in groups]
    told = files.found("proc/self/cgroup")
    return listed(seen) if seen else "no" if told else UNAVAILABLE


def _virtualization(files: Files, cpuinfo: str) -> str:
    flagged = bool(re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE))
    maker = " ".join(filter(None, (files.text(f"{DMI}/sys_vendor"), files.text(f"{DMI}/product_name"))))
    if flagged:
        return f"virtual machine ({maker})" if maker else "virtual machine"
    return "no" if re.search(r"^flags\s*:", cpuinfo, re.MULTILINE) else UNAVAILABLE


def _variables(variables: Mapping[str, str]) -> str:
    """Names and values of a list of ours, and of what a value could betray, the name alone."""
    told = [
        f"{name} is set" if TELLING.search(variables[name]) else f"{name}={variables[name]}"
        for name in VARIABLES
        if name in variables
    ]
    return ", ".join(told) or "none"
