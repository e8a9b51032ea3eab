"""What NVIDIA's management library tells of the GPU that is timed. Every question may stay unanswered.

A part of a GPU (MIG) answers less than a whole one, a container sees no processes, an old driver lacks functions.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from rescompress.cpu import UNAVAILABLE

PACKAGE = "rescompress[nvml]"
CLOCK, MEMORY_CLOCK, POWER, HEAT, REASONS = (
    *("GPU clock", "GPU memory clock", "GPU power", "GPU temperature", "GPU clock reasons"),
)
TEMPERATURES = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
CLOCK_REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
"""Questions by their names of today, and as older drivers know them."""
THROTTLING = {
    "SwPowerCap": "its power limit",
    "HwSlowdown": "a hardware slow-down",
    "SwThermalSlowdown": "its temperature, by the driver",
    "HwThermalSlowdown": "its temperature, by the hardware",
    "HwPowerBrakeSlowdown": "the power supply's brake",
}
"""Reasons to run slower than asked for, by the end of their names in NVML; an idle GPU or one set by its user isn't."""


class Gpu:
    """One GPU, or a part of one.

    Args:
        nvml: the module ``pynvml``, initialized.
        handle: of what runs.
        whole: of the GPU that it is a part of, which has the clocks and sensors; the same where it is no part.
    """

    def __init__(self, nvml: Any, handle: Any, whole: Any) -> None:
        self._nvml, self._handle, self._whole = nvml, handle, whole

    def read(self) -> dict[str, float]:
        """Clocks in MHz, watts, degrees Celsius and the bits of why the clock is what it is.

        A GPU that has nothing to do lowers its clocks, which says nothing of those that it is timed at: left out.
        """
        reasons = self._either(*CLOCK_REASONS)
        idle = bool((reasons or 0) & self._nvml.nvmlClocksEventReasonGpuIdle)
        clocks = () if idle else ((CLOCK, "NVML_CLOCK_SM"), (MEMORY_CLOCK, "NVML_CLOCK_MEM"))
        power = self._ask("nvmlDeviceGetPowerUsage", self._whole)
        found = {
            **{name: self._ask("nvmlDeviceGetClockInfo", self._whole, getattr(self._nvml, of)) for name, of in clocks},
            POWER: None if power is None else power / 1000,
            HEAT: self._either(*TEMPERATURES, self._nvml.NVML_TEMPERATURE_GPU),
            REASONS: reasons,
        }
        return {name: float(value) for name, value in found.items() if value is not None}

    def throttling(self, reasons: Iterable[float]) -> tuple[str, ...]:
        """What slowed it down, of all the bits that were read."""
        seen = 0
        for bits in reasons:
            seen |= int(bits)
        return tuple(said for end, said in THROTTLING.items() if seen & getattr(self._nvml, _reason(end)))

    def about(self) -> dict[str, str]:
        """Its name, its driver, how much power it may take, and whether it is a part of a GPU."""
        limit = self._ask("nvmlDeviceGetEnforcedPowerLimit", self._whole)
        part = "part of a GPU (MIG)" if self._handle is not self._whole else ""
        told = {
            "GPU": ", ".join(filter(None, (self._ask("nvmlDeviceGetName", self._handle), part))),
            "GPU driver": self._ask("nvmlSystemGetDriverVersion"),
            "GPU power limit": None if limit is None else f"{limit / 1000:.0f} W",
            "GPU persistence": {0: "off", 1: "on"}.get(self._ask("nvmlDeviceGetPersistenceMode", self._whole)),
        }
        return {name: value for name, value in told.items() if value}

    def processes(self) -> dict[int, int | None] | None:
        """Bytes that each process which computes on it has taken, by process; None of bytes that aren't told."""
        found = self._ask("nvmlDeviceGetComputeRunningProcesses", self._handle)
        return None if found is None else {each.pid: each.usedGpuMemory for each in found}

    def energy_mj(self) -> int | None:
        """Millijoules since the driver was loaded, of a whole GPU; a part has no counter of its own."""
        whole = self._handle is self._whole
        energy: int | None = self._ask("nvmlDeviceGetTotalEnergyConsumption", self._handle) if whole else None
        return energy

    def close(self) -> None:
        """Give the library back."""
        self._ask("nvmlShutdown")

    def _either(self, name: str, old: str, *arguments: Any) -> Any:
        """A question by its name of today, or by the one that older drivers know."""
        found = self._ask(name, self._whole, *arguments)
        return self._ask(old, self._whole, *arguments) if found is None else found

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, name)(*arguments)
        except self._nvml.NVMLError:
            return None


def opened(variables: Mapping[str, str] = os.environ) -> tuple[Gpu | None, str]:
    """The GPU that CUDA programs take here, or None and a sentence on why it isn't told; close it at the end.

    Args:
        variables: of the environment; ``CUDA_VISIBLE_DEVICES`` names the GPU by number, serial number or part.
    """
    try:
        import pynvml as nvml
    except ImportError:
        return None, f"nvidia-ml-py is not installed: pip install '{PACKAGE}'"
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return None, f"NVIDIA's management library says: {error}"
    try:
        handle = _handle(nvml, variables.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0")
        return Gpu(nvml, handle, _whole(nvml, handle)), ""
    except (nvml.NVMLError, StopIteration) as error:
        nvml.nvmlShutdown()
        return None, f"NVIDIA's management library says: {str(error) or 'no such GPU'}"


def told() -> dict[str, str]:
    """The GPU and how it is set up, in words; or why nothing is told."""
    gpu, hindrance = opened()
    if gpu is None:
        return {"GPU": f"{UNAVAILABLE}: {hindrance}"}
    found = gpu.about()
    gpu.close()
    return found


def _handle(nvml: Any, named: str) -> Any:
    if named.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(named))
    if named.startswith("MIG-"):
        return nvml.nvmlDeviceGetHandleByUUID(named)
    handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
    return next(handle for handle in handles if nvml.nvmlDeviceGetUUID(handle).startswith(named))


def _whole(nvml: Any, handle: Any) -> Any:
    """The GPU that a part belongs to; drivers without MIG don't know the question."""
    try:
        part = nvml.nvmlDeviceIsMigDeviceHandle(handle)
    except nvml.NVMLError:
        part = False
    return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if part else handle


def _reason(end: str) -> str:
    return f"nvmlClocksEventReason{end}"
