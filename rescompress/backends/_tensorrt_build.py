"""From a strongly typed ONNX file to an engine: profiles, timing cache, progress, FP32 where a kernel is missing."""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rescompress import progress
from rescompress.artifact import digest, write_bytes
from rescompress.backends import _tensorrt_log as log
from rescompress.errors import InputRefused, RecipeError

DLA_LAST = 10
"""The last major release of TensorRT that all Jetsons' accelerators are built for."""
MOST_REPEATS = 64


@dataclass(frozen=True)
class Settings:
    """What the builder is told.

    Attributes:
        batches: the fewest images in a batch, those that kernels are chosen for, and the most.
        workspace_bytes: scratch memory of one kernel.
        half: the file computes in FP16 where it doesn't compute in integers.
    """

    batches: tuple[int, int, int]
    workspace_bytes: int
    optimization_level: int
    tf32: bool
    hardware_compatible: bool
    version_compatible: bool
    refit: bool
    dla: bool
    half: bool


@dataclass(frozen=True)
class Built:
    """The files of an artifact, and the nodes that went to FP32 because they have no kernel in FP16."""

    onnx: bytes
    engine: bytes
    timing_cache: bytes
    in_fp32: tuple[str, ...] = field(default=())


def build(write: Callable[[tuple[str, ...]], Any], settings: Settings, cache: Path) -> Built:
    """Build an engine; each layer that has no kernel in FP16 goes to FP32 with its like, and the build repeats.

    Args:
        write: makes the ``onnx.ModelProto`` with the named nodes in FP32.
        settings: what the builder is told.
        cache: file of kernel timings, which is read and written, so that the next build is faster.

    Raises:
        InputRefused: TensorRT can't read the file, or can't build it.
        RecipeError: TensorRT 11 is asked for DLA.
    """
    import tensorrt as trt

    if settings.dla and int(trt.__version__.split(".")[0]) > DLA_LAST:
        raise RecipeError(f"TensorRT {trt.__version__} builds nothing for DLA here.", "Take TensorRT 10, or no DLA.")
    kept: tuple[str, ...] = ()
    timings = _read(cache)
    for _ in range(MOST_REPEATS):
        proto = write(kept)
        content: bytes = proto.SerializeToString(deterministic=True)
        logger = log.make()
        engine, timings = _attempt(content, settings, timings, logger)
        if engine is not None:
            write_bytes(cache, timings)
            return Built(content, engine, timings, kept)
        more = [name for name in log.blamed(logger.errors, proto.graph.node) if name not in kept]
        if not more or not settings.half:
            break
        for name in more:
            progress.note(f"{name} is computed in FP32: TensorRT {trt.__version__} has no FP16 kernel for it.")
        alike = [name for name in log.twins(more, proto.graph) if name not in kept]
        for name in alike:
            progress.note(f"{name} is computed in FP32 too: it wants the same kernel as {more[0]}.")
        kept = (*kept, *more, *alike)
    said = log.last(logger, "it gave no reason")
    remedy = "Export with floats=fp32, or more workspace_mb." if settings.half else "Export with more workspace_mb."
    raise InputRefused(f"TensorRT can't build the engine: {said}.", remedy)


def cache_path(made_with: Mapping[str, str]) -> Path:
    """Where this user's kernel timings are kept: one file for each GPU, driver and release."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("RESCOMPRESS_CACHE") or Path(base) / "rescompress")
    return folder / "tensorrt" / f"{digest(dict(made_with))[:16]}.cache"


def _attempt(content: bytes, settings: Settings, timings: bytes, logger: Any) -> tuple[bytes | None, bytes]:
    """The engine, or None; and what has been timed so far."""
    import tensorrt as trt

    builder = log.opened(trt.Builder, logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        refusals = log.refusals(parser) or ["TensorRT can't read the file."]
        raise InputRefused(" ".join(refusals), "Take another opset, or report the model.")
    config = builder.create_builder_config()
    _configure(config, settings)
    _set_profile(builder, config, network.get_input(0), settings.batches)
    if not config.set_timing_cache(config.create_timing_cache(timings), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    monitor = _monitor()
    config.progress_monitor = monitor
    try:
        plan = builder.build_serialized_network(network, config)
    finally:
        monitor.close()
    if monitor.interrupted:
        raise KeyboardInterrupt
    timed = config.get_timing_cache()
    return None if plan is None else bytes(plan), timings if timed is None else bytes(timed.serialize())


def _configure(config: Any, settings: Settings) -> None:
    """Say everything but the shapes."""
    import tensorrt as trt

    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    config.builder_optimization_level = settings.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the audit would know names only
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if settings.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if settings.dla:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = 0
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _set_profile(builder: Any, config: Any, taken: Any, batches: tuple[int, int, int]) -> None:
    """Say between which batches the first dimension may be, if it is free."""
    shape = tuple(taken.shape)
    if shape[0] >= 0:
        return
    profile = builder.create_optimization_profile()
    least, best, most = ((batch, *shape[1:]) for batch in batches)
    profile.set_shape(taken.name, least, best, most)
    config.add_optimization_profile(profile)


def _read(cache: Path) -> bytes:
    with suppress(FileNotFoundError):
        return cache.read_bytes()
    return b""


def _monitor() -> Any:
    """A ``tensorrt.IProgressMonitor`` that shows the phase that runs, and stops the build when interrupted."""
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, unused-ignore]
        """A bar for the innermost phase; its parent's comes back with its next step."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._steps: dict[str, int] = {}
            self._shown: str | None = None
            self._bar: Generator[int, None, None] | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Called by TensorRT."""
            self._steps[phase_name] = num_steps
            self._show(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Called by TensorRT; false asks it to stop."""
            try:
                if self._shown != phase_name:
                    self._show(phase_name, step)
                if self._bar is not None:
                    next(self._bar, None)
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            """Called by TensorRT."""
            if self._shown == phase_name:
                self.close()

        def close(self) -> None:
            """Take the bar away."""
            if self._bar is not None:
                self._bar.close()
            self._bar = self._shown = None

        def _show(self, phase: str, done: int) -> None:
            self.close()
            total = self._steps.get(phase, 0)
            self._bar = progress.track(range(done, total), phase, total, done)
            self._shown = phase
            next(self._bar, None)  # a bar counts a step when the next one is asked for

    return Monitor()
