"""Counters of energy that a machine has by itself: RAPL of processors, NVML of GPUs, the sensor of a Jetson's board."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from rescompress.benchmarking.conditions.files import Files
from rescompress.benchmarking.conditions.nvml import Gpu
from rescompress.benchmarking.conditions.sampling import Sampler

RAPL = "sys/class/powercap"
BOARDS = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0")
"""What NVIDIA's boards call the rail that all others hang on."""
SENSOR_PERIOD_SECONDS = 0.05
T = TypeVar("T")


class Meter(Protocol):
    """Measures the energy of what is done under it.

    Attributes:
        name: what is measured, and by what.
    """

    name: str

    def measured(self, do: Callable[[], T]) -> tuple[T, float]:
        """What it gives, and the joules that went meanwhile."""
        ...


class Rapl:
    """Counters of processors and their memory, in microjoules; each starts again at 0 when its range is full.

    Args:
        files: the system's.
        domains: folders that hold ``energy_uj``; none is a part of another.
    """

    def __init__(self, files: Files, domains: dict[str, Path]) -> None:
        self._files, self._folders = files, list(domains.values())
        self.name = f"RAPL ({', '.join(sorted(domains))})"

    def measured(self, do: Callable[[], T]) -> tuple[T, float]:
        """What it gives, and the joules that went meanwhile, for as long as no counter goes round twice."""
        before = self._read()
        done = do()
        ranges = [self._files.number(folder / "max_energy_range_uj") or 0 for folder in self._folders]
        spent = [
            now - then if now >= then else now - then + whole
            for now, then, whole in zip(self._read(), before, ranges, strict=True)
        ]
        return done, sum(spent) / 1e6

    def _read(self) -> list[int]:
        return [self._files.number(folder / "energy_uj") or 0 for folder in self._folders]


class NvmlCounter:
    """A GPU's own counter, in millijoules, of the whole board."""

    name = "NVML's counter of the GPU"

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def measured(self, do: Callable[[], T]) -> tuple[T, float]:
        """What it gives, and the joules that went meanwhile."""
        before = self._gpu.energy_mj() or 0
        done = do()
        return done, ((self._gpu.energy_mj() or 0) - before) / 1e3


class Board:
    """A sensor that tells volts and amperes of a whole board, read over and over.

    Args:
        files: the system's.
        voltage: file of millivolts.
        current: file of milliamperes.
        period: seconds between two readings.
    """

    def __init__(self, files: Files, voltage: Path, current: Path, period: float = SENSOR_PERIOD_SECONDS) -> None:
        self._files, self._voltage, self._current, self._period = files, voltage, current, period
        self.name = "the board's power sensor"

    def measured(self, do: Callable[[], T]) -> tuple[T, float]:
        """What it gives, and the mean power times the time that it took."""
        sampler, begin = Sampler(self._watts, self._period), time.monotonic()
        with sampler:
            done = do()
        return done, float(np.mean(sampler.series["watts"])) * (time.monotonic() - begin)

    def _watts(self) -> dict[str, float]:
        millivolts, milliamperes = self._files.number(self._voltage), self._files.number(self._current)
        return {"watts": (millivolts or 0) * (milliamperes or 0) / 1e6}


def found(files: Files, gpu: Gpu | None, on_gpu: bool) -> tuple[Meter | None, str]:
    """The meter of what runs on the processor or on the GPU, or None and why there is none.

    Args:
        files: the system's.
        gpu: that things run on, if it can be asked.
        on_gpu: whether something runs there.
    """
    board = _board(files)
    if board:
        return board, ""
    if on_gpu:
        counts = gpu is not None and gpu.energy_mj() is not None
        return (NvmlCounter(gpu), "") if gpu and counts else (None, "the GPU tells no energy")
    names = {path.parent.relative_to(files.root): files.text(path) for path in files.found(f"{RAPL}/intel-rapl:*/name")}
    domains = {
        _unique(folder, name): folder
        for folder, name in names.items()
        if name and (name.startswith("package") or name == "dram")
    }
    if not domains:
        return None, "this machine has no counter of energy"
    if any(files.number(folder / "energy_uj") is None for folder in domains.values()):
        return None, "this user may not read RAPL's counters"
    return Rapl(files, domains), ""


def _unique(folder: Path, name: str) -> str:
    """``dram`` is in each package: ``intel-rapl:1:0`` is the first part of package 1."""
    return name if name != "dram" else f"dram-{folder.name.split(':')[1]}"


def _board(files: Files) -> Board | None:
    """Jetsons have an INA3221; its channel 1 is ``in1_label``, ``in1_input`` and ``curr1_input``."""
    for label in files.found("sys/class/hwmon/hwmon*/in*_label"):
        if files.text(label) in BOARDS:
            folder, number = label.parent.relative_to(files.root), label.name[2 : -len("_label")]
            voltage, current = folder / f"in{number}_input", folder / f"curr{number}_input"
            if files.number(voltage) is not None and files.number(current) is not None:
                return Board(files, voltage, current)
    return None
