"""What may disturb or explain a latency: how the machine is set up, and what happened to it meanwhile.

``settings`` and ``quota`` are what stays, ``counters`` and ``sampling`` what moves, ``nvml`` is the GPU;
``disturbance`` says from where on it counts, ``energy`` what a query costs.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import util
from types import TracebackType

from rescompress.artifact import Manifest
from rescompress.benchmarking.conditions import counters, nvml, quota, sampling
from rescompress.benchmarking.conditions.counters import Counters
from rescompress.benchmarking.conditions.disturbance import Disturbance
from rescompress.benchmarking.conditions.files import Files
from rescompress.benchmarking.conditions.sampling import Processor, Sampler
from rescompress.benchmarking.conditions.settings import settings
from rescompress.cpu import UNAVAILABLE

QUERIES = (
    "p50 and the like by the host's clock, copies of images to the GPU and of answers back included, the host waiting "
    "for each answer; compute by CUDA events, copies left out"
)
GRAPH, ONE_BY_ONE = "a CUDA graph", "kernels one by one"


def conditions(files: Files | None = None, variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """How the machine is set up now, and its load, in words; what the system doesn't tell is ``unavailable``.

    Args:
        files: the system's.
        variables: of the environment.
    """
    files = files or Files()
    return {**settings(files, variables), "CPU quota": quota.told(files), "load average": _load_average(files)}


def gpu_queries(manifests: Sequence[Manifest]) -> dict[str, str]:
    """What a query of artifacts on a GPU is made of: both clocks, copies, and how kernels are launched.

    Args:
        manifests: of the candidates; those that run elsewhere have nothing to tell.
    """
    found = {f"{one.label} {one.backend}": _launches(one) for one in manifests if on_gpu(one)}
    return {"GPU queries": QUERIES, "GPU launches": ", ".join(f"{k}: {v}" for k, v in found.items())} if found else {}


def _launches(manifest: Manifest) -> str:
    if manifest.backend == "tensorrt":  # its session makes a graph where it can
        return GRAPH if util.find_spec("cuda") else ONE_BY_ONE
    return GRAPH if manifest.knobs.get("cuda_graphs") else ONE_BY_ONE


def on_gpu(manifest: Manifest) -> bool:
    """Whether an artifact runs on an NVIDIA GPU."""
    return manifest.backend == "tensorrt" or manifest.knobs.get("device") == "cuda"


class Watch:
    """Watches the machine while artifacts are timed.

    Enter it before the first process starts and leave it after the last has ended; ``timed`` surrounds what counts.

    Args:
        gpu: whether something is timed on a GPU; where nothing is, no GPU is asked.
        files: the system's.
        variables: of the environment.
        period: seconds between two readings of clocks and sensors.

    Attributes:
        device_bytes: largest memory that each process took on the GPU, one tuple per ``timed``; None where unknown.
    """

    def __init__(
        self,
        gpu: bool = False,
        files: Files | None = None,
        variables: Mapping[str, str] = os.environ,
        period: float = sampling.PERIOD_SECONDS,
    ) -> None:
        self._files, self._variables, self._wants_gpu = files or Files(), variables, gpu
        self._gpu, self._hindrance = nvml.opened(variables) if gpu else (None, "")
        self._processor, self._sampler = Processor(self._files), Sampler(self._read, period)
        self._seconds, self._faults, self._can_count_faults = 0.0, 0, False
        self._others: list[int] = []
        self._seen: Counters | None = None
        self._told: dict[str, str] = {}
        self.device_bytes: list[tuple[int | None, ...]] = []

    def __enter__(self) -> "Watch":
        self._told = conditions(self._files, self._variables)
        self._count_others()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count_others()
        self._told["load average"] += f" before, {_load_average(self._files)} after"
        if self._gpu:
            self._told |= self._gpu.about()
            self._gpu.close()

    @contextlib.contextmanager
    def timed(self, processes: Sequence[int]) -> Iterator[None]:
        """Watch what happens inside.

        Args:
            processes: numbers of the processes that are timed, in the order of the candidates.
        """
        before, faults = counters.read(self._files), counters.major_faults(self._files, processes)
        begin = time.monotonic()
        with self._sampler:
            yield
        self._seconds += time.monotonic() - begin
        happened = counters.read(self._files).since(before)
        self._seen = happened if self._seen is None else self._seen.plus(happened)
        later = counters.major_faults(self._files, processes)
        self._faults += sum(later[process] - faults[process] for process in later if process in faults)
        self._can_count_faults = bool(later)
        taken = (self._gpu.processes() if self._gpu else None) or {}
        self.device_bytes.append(tuple(taken.get(process) for process in processes))

    def conditions(self) -> dict[str, str]:
        """All that was seen, in words, once this is left."""
        series = self._sampler.series
        found = {
            **self._told,
            "CPU clock": sampling.spread(series.get(sampling.CLOCK), "MHz"),
            "CPU temperature": sampling.ends(series.get(sampling.HEAT), "°C"),
            **(counters.told(self._seen) if self._seen else {}),
            "major faults": f"{self._faults} pages" if self._can_count_faults else UNAVAILABLE,
        }
        return {**found, **self._gpu_conditions()} if self._wants_gpu else found

    def disturbance(self) -> Disturbance:
        """What the verdict is read off."""
        seen, series = self._seen or Counters(None, None, None, None), self._sampler.series
        return Disturbance(
            seconds=self._seconds,
            held_back=seen.held_back,
            overheated=seen.overheated,
            swapped=seen.swapped,
            major_faults=self._faults if self._can_count_faults else None,
            starved=None if seen.starved_us is None else seen.starved_us / 1e6 / max(self._seconds, 1e-9),
            clock_drop=sampling.drop(series.get(sampling.CLOCK, [])),
            warming=sampling.still_rising(series.get(sampling.HEAT, [])),
            on_battery={"battery": True, "mains": False}.get(self._told.get("power supply", "")),
            gpu=self._wants_gpu,
            gpu_throttled=self._throttling(),
            gpu_clock_drop=sampling.drop(series.get(nvml.CLOCK, [])),
            gpu_warming=sampling.still_rising(series.get(nvml.HEAT, [])),
            gpu_others=max(self._others) if self._others else None,
        )

    def _gpu_conditions(self) -> dict[str, str]:
        series, throttled = self._sampler.series, self._throttling()
        if self._gpu is None:
            return {"GPU": f"{UNAVAILABLE}: {self._hindrance}"}
        return {
            nvml.CLOCK: sampling.spread(series.get(nvml.CLOCK), "MHz"),
            nvml.MEMORY_CLOCK: sampling.spread(series.get(nvml.MEMORY_CLOCK), "MHz"),
            nvml.POWER: sampling.spread(series.get(nvml.POWER), "W"),
            nvml.HEAT: sampling.ends(series.get(nvml.HEAT), "°C"),
            "GPU throttling": UNAVAILABLE if throttled is None else ", ".join(throttled) or "none seen",
            "other programs on the GPU": str(max(self._others)) if self._others else UNAVAILABLE,
        }

    def _throttling(self) -> tuple[str, ...] | None:
        bits = self._sampler.series.get(nvml.REASONS)
        return self._gpu.throttling(bits) if self._gpu and bits else None

    def _read(self) -> dict[str, float]:
        return {**self._processor.read(), **(self._gpu.read() if self._gpu else {})}

    def _count_others(self) -> None:
        """None of ours computes now but, perhaps, this very process."""
        found = self._gpu.processes() if self._gpu else None
        if found is not None:
            self._others.append(len(set(found) - {os.getpid()}))


def _load_average(files: Files) -> str:
    """Of the last minute."""
    said = (files.text("proc/loadavg") or "").split()
    return said[0] if said else UNAVAILABLE
