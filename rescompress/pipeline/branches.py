"""Where one stage becomes several: each target's runtime has its own INT8 scheme, and all share one calibration."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from rescompress import backends, knobs, processes
from rescompress.artifact import digest
from rescompress.context import Context
from rescompress.quantization.calibration import calibrate
from rescompress.recipe import Recipe, Step
from rescompress.spec import StageRow

QUANTIZE, DEFAULT = "quantize", "onnxruntime"
"""The stage that follows schemes, and whose it follows where nothing with integers is exported."""


@dataclass(frozen=True)
class Planned:
    """One stage to run.

    Attributes:
        index: its place; stages that share a place start from the same model.
        step: name and knobs.
        runtime: whose scheme it follows, where its place holds several; else empty.
    """

    index: int
    step: Step
    runtime: str = ""


def plan(job: Recipe) -> tuple[Planned, ...]:
    """The recipe's stages; one that quantizes for no runtime by name does so for each target's."""
    planned = [Planned(index, step) for index, step in enumerate(job.stages, 1)]
    if not planned or planned[-1].step.stage != QUANTIZE or planned[-1].step.knobs["runtime"] is not None:
        return tuple(planned)
    *before, last = planned
    wanted = dict.fromkeys(scheme for target in job.export if (scheme := runtime_of(_name(target))))
    runtimes = list(wanted) or [DEFAULT]
    named = [replace(last, step=replace(last.step, knobs={**last.step.knobs, "runtime": name})) for name in runtimes]
    if len(named) > 1:
        named = [replace(one, runtime=name) for one, name in zip(named, runtimes, strict=True)]
    return (*before, *named)


def runtime_of(backend: str) -> str | None:
    """Whose scheme a backend follows; None where it computes with no integers."""
    scheme = backends.get(backend).SCHEME
    return scheme.runtime if scheme else None


def of_target(rows: Sequence[StageRow], backend: str) -> tuple[StageRow, ...]:
    """The stages that a target exports: of those that share a place, the one that follows its scheme."""
    wanted = runtime_of(backend) or next((row.runtime for row in rows if row.runtime), "")
    return tuple(row for row in rows if row.runtime in ("", wanted))


def share_calibration(planned: Planned, before: StageRow, model: nn.Module, ctx: Context, folder: Path) -> Step:
    """The step itself, or the step with the calibration that it shares with others of its place, made if need be.

    The file lies in the folder of the stages until the last of them is done.
    """
    step = planned.step
    alone = not planned.runtime or processes.size() > 1
    if alone or step.knobs["precision"] != "int8" or step.knobs["calibration"] is not None:
        return step
    images, batch = step.knobs["calibration_images"], step.knobs["calibration_batch"]
    file = folder / f"{planned.index:02d}-calibration-{digest([before.key, images, batch])[:8]}.safetensors"
    calibrate(model, ctx, file, calibration_images=images, batch=batch)
    return replace(step, knobs={**step.knobs, "calibration": file})


def _name(target: object) -> str:
    return knobs.only_item(target)[0]
