"""A stand-in for ``pynvml`` that knows one GPU, by the names and arguments of the real module (13.615).

``test_nvml`` compares both where the real one is installed.
"""

from types import SimpleNamespace
from typing import Any

PROCESS = SimpleNamespace


class NVMLError(Exception):
    """What the library refuses."""


class Nvml:
    """Questions and answers as ``pynvml`` has them; change the attributes to make another GPU.

    Attributes:
        refused: names of questions that this driver doesn't answer.
        part: the GPU is one that is partitioned (MIG), and a part of it is asked for.
    """

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    nvmlClocksEventReasonGpuIdle = 0x1
    nvmlClocksEventReasonSwPowerCap = 0x4
    nvmlClocksEventReasonHwSlowdown = 0x8
    nvmlClocksEventReasonSwThermalSlowdown = 0x20
    nvmlClocksEventReasonHwThermalSlowdown = 0x40
    nvmlClocksEventReasonHwPowerBrakeSlowdown = 0x80

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.part = False
        self.opened = 0
        self.clock, self.reasons, self.degrees, self.milliwatts, self.millijoules = 1980, 0, 41, 350_000, 10**9
        self.running: dict[int, int | None] = {}

    def __getattribute__(self, name: str) -> Any:
        refused = object.__getattribute__(self, "__dict__").get("refused", set())
        if name in refused:
            return _refuse
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95.05"

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index > 1:
            raise NVMLError("Invalid Argument")
        return f"handle {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return f"handle of {uuid}"

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return {"handle 0": "GPU-aaaa-1", "handle 1": "GPU-bbbb-2"}[handle]

    def nvmlDeviceIsMigDeviceHandle(self, device: str) -> bool:
        return self.part

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, migDevice: str) -> str:
        return "handle 0"

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "NVIDIA H200"

    def nvmlDeviceGetPersistenceMode(self, handle: str) -> int:
        return 1

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        return 700_000

    def nvmlDeviceGetClockInfo(self, handle: str, type: int) -> int:
        self._whole(handle)
        return {1: self.clock, 2: 3201}[type]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self._whole(handle)
        return self.milliwatts

    def nvmlDeviceGetTemperatureV(self, handle: str, sensor: int, version: int = 0x100000C) -> int:
        self._whole(handle)
        return self.degrees

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return self.degrees

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return self.reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self.reasons

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self._whole(handle)
        return self.millijoules

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[PROCESS]:
        return [PROCESS(pid=pid, usedGpuMemory=taken) for pid, taken in self.running.items()]

    def _whole(self, handle: str) -> None:
        """A part has no clock, no sensor and no counter."""
        if self.part and handle != "handle 0":
            raise NVMLError("Not Supported")


def _refuse(*arguments: Any) -> None:
    raise NVMLError("Function Not Found")
