"""Clocks, temperatures and power, read over and over while something is timed."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from rescompress.benchmarking.conditions.files import CPUS, Files
from rescompress.cpu import UNAVAILABLE

PERIOD_SECONDS = 0.5
"""Between two readings: a clock is a mean over milliseconds, and reading it takes time from what is timed."""
FEWEST = 8
"""Samples that a trend takes."""
CLOCK, HEAT = "clock", "temperature"
"""MHz of the fastest CPU, and degrees Celsius of the hottest sensor."""
HOT = ("k10temp", "coretemp", "zenpower", "cpu_thermal", "soc_thermal")
"""Names under which Linux tells a processor's temperature."""


class Sampler:
    """Calls what reads, in a thread, as long as it is entered; it may be entered again.

    Args:
        read: gives numbers by name, those that it could read.
        period: seconds between two readings.

    Attributes:
        series: the numbers of each name, in the order in which they were read.
    """

    def __init__(self, read: Callable[[], Mapping[str, float]], period: float = PERIOD_SECONDS) -> None:
        self.series: dict[str, list[float]] = {}
        self._read, self._period = read, period

    def __enter__(self) -> "Sampler":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        """Read at once, then every period, so that even a short block is seen."""
        while True:
            begin = time.monotonic()
            for name, value in self._read().items():
                self.series.setdefault(name, []).append(value)
            if self._stop.wait(max(0.0, self._period - (time.monotonic() - begin))):
                return


class Processor:
    """The clock of the fastest CPU, which is the one that works, and the hottest sensor.

    Where the files lie is looked up once: many CPUs have many of them.

    Args:
        files: the system's.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._clocks = files.found(f"{CPUS}/cpu[0-9]*/cpufreq/scaling_cur_freq")
        chips = [path.parent for path in files.found("sys/class/hwmon/hwmon*/name") if files.text(path) in HOT]
        known = [path for chip in chips for path in sorted(chip.glob("temp*_input"))]
        self._heat = known or files.found("sys/class/thermal/thermal_zone*/temp")

    def read(self) -> dict[str, float]:
        """MHz, and degrees Celsius; what isn't told is left out."""
        found = {CLOCK: self._most(self._clocks), HEAT: self._most(self._heat)}
        return {name: value / 1000 for name, value in found.items() if value is not None}

    def _most(self, paths: list[Path]) -> int | None:
        return max((number for path in paths if (number := self._files.number(path)) is not None), default=None)


def drop(series: list[float]) -> float | None:
    """By what share the slowest third of the samples, by its median, is below the fastest; None of too few samples."""
    if len(series) < FEWEST:
        return None
    medians = [float(np.median(part)) for part in np.array_split(np.array(series), 3)]
    return 1 - min(medians) / max(medians) if max(medians) > 0 else None


def still_rising(series: list[float]) -> float | None:
    """Degrees by which the last quarter of the samples is above the third: near 0 once a plateau is reached."""
    if len(series) < FEWEST:
        return None
    third, last = [float(np.median(part)) for part in np.array_split(np.array(series), 4)[2:]]
    return last - third


def spread(series: list[float] | None, unit: str) -> str:
    """Least, mean and most."""
    if not series:
        return UNAVAILABLE
    return f"{min(series):.0f} / {np.mean(series):.0f} / {max(series):.0f} {unit} (min / mean / max)"


def ends(series: list[float] | None, unit: str) -> str:
    """The first and the last."""
    return f"{series[0]:.0f} to {series[-1]:.0f} {unit}" if series else UNAVAILABLE
