"""Run a recipe's stages, each written to disk before the next one starts."""

import contextlib
import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rescompress import __version__, artifact, checkpoint, data, graph, knobs, models, processes, progress
from rescompress.artifact import digest
from rescompress.context import Context
from rescompress.cost import total_cost
from rescompress.data import Data
from rescompress.edits import edits
from rescompress.errors import BackendMissing, InputRefused, RecipeError
from rescompress.metrics import top1
from rescompress.pipeline import branches
from rescompress.pipeline.branches import Planned
from rescompress.pipeline.folder import RunFolder
from rescompress.recipe import ModelChoice, Recipe, Step, order
from rescompress.spec import AS_IN_FILE, Cost, ModelSpec, Proportion, StageRow

BASELINE = "baseline"
EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Origin:
    """The model that a run starts from."""

    model: nn.Module
    spec: ModelSpec
    key: str


def open_origin(job: Recipe) -> Origin:
    """Load the recipe's checkpoint, or build its stock network with random weights.

    Raises:
        InputRefused: the checkpoint is missing, broken or of another network.
        RecipeError: neither a checkpoint nor a whole description is given.
    """
    chosen = job.model
    spec = spec_of(chosen)
    if chosen.checkpoint is not None:
        model = checkpoint.load(chosen.checkpoint, spec)
        _check_guess(chosen, models.spec_of(model))
        if chosen.preprocessing:
            models.describe(model, replace(models.spec_of(model), preprocessing=chosen.preprocessing))
        return Origin(model, models.spec_of(model), digest(_content(model)))
    if spec is None:
        raise RecipeError(
            "The recipe has no model.", "Give a checkpoint; or family, architecture and classes; or a builder."
        )
    return Origin(models.build(spec, job.seed), spec, digest([repr(spec), job.seed]))


def spec_of(chosen: ModelChoice) -> ModelSpec | None:
    """The stock network that a recipe names; None where it leaves that to the checkpoint.

    Raises:
        RecipeError: the network is described wrongly or in part.
    """
    if not chosen.builder and (chosen.family is None or chosen.architecture is None):
        return None
    classes = chosen.classes
    if classes is None and chosen.checkpoint is not None:
        classes = AS_IN_FILE
    if classes is None:
        raise RecipeError("The recipe doesn't say how many classes its network tells apart.", "Give classes.")
    if chosen.builder:
        spec = models.built_by(chosen.builder, classes, **chosen.arguments)
    else:
        spec = models.spec(str(chosen.family), str(chosen.architecture), classes, **chosen.arguments)
    return replace(spec, preprocessing=chosen.preprocessing or spec.preprocessing)


def _check_guess(chosen: ModelChoice, found: ModelSpec) -> None:
    """Answer a wrong word about the network with the right one.

    Raises:
        InputRefused: the checkpoint is of another network than the recipe says.
    """
    said = {"family": chosen.family, "architecture": chosen.architecture, "classes": chosen.classes}
    wrong = [f"{name} {value}" for name, value in said.items() if value not in (None, getattr(found, name))]
    if wrong and not chosen.builder:
        raise InputRefused(
            f"{chosen.checkpoint} holds {found}, not {', '.join(wrong)}.", "Correct the recipe, or leave that out."
        )


def run_stages(job: Recipe, folder: RunFolder, origin: Origin, opened: Data | None) -> tuple[StageRow, ...]:
    """Every stage's row, the baseline's first; stages that are on disk already are taken from there.

    A stage always starts from the file that the one before it wrote, so that a resumed run gives the same bytes. Where
    several processes do the job, the main one writes and the others follow what it finds.
    """
    steps = (Planned(0, Step(BASELINE, {})), *branches.plan(job))
    key = digest([__version__, origin.key, opened.fingerprint if opened else None, job.seed])
    ctx = Context(opened, job.seed, device=_device(job.device), trackers=job.trackers)
    rows: list[StageRow] = []
    for planned in steps:
        before = [row for row in rows if row.index < planned.index]
        key = digest([before[-1].key if before else key, planned.step.stage, *_content_of(planned.step)])
        label = _begun(planned, key).label
        row = folder.stage(label, key) if processes.is_main() else None
        if processes.told(row is not None):
            row = row or folder.stage(label, key)
        else:
            row = _run_stage(planned, key, folder, origin, before, ctx)
            if processes.is_main():
                folder.keep_stage(row)
        assert row is not None
        rows.append(row)
    if processes.is_main():
        folder.keep_only([row.label for row in rows])
    return tuple(rows)


def load_stage(folder: RunFolder, row: StageRow) -> nn.Module:
    """The model that a stage left."""
    return checkpoint.load(folder.stages / row.checkpoint)


def _run_stage(
    planned: Planned, key: str, folder: RunFolder, origin: Origin, rows: list[StageRow], ctx: Context
) -> StageRow:
    started = time.monotonic()
    step, begun = planned.step, _begun(planned, key)
    label = begun.label
    file = folder.stages / f"{label}.safetensors"
    together = order.together(step.stage, step.knobs)
    if together:
        if processes.is_main():
            ctx = replace(ctx, scratch=folder.scratch(label, key))
        processes.wait()
        ctx = replace(ctx, scratch=folder.training / label)
    with progress.gathered() as notes:
        if processes.is_main() or together:
            with contextlib.nullcontext() if together else processes.apart():
                model = _staged(planned, folder, origin, rows, ctx)
            if processes.is_main():
                checkpoint.save(model, file)
    processes.wait()
    model = model if processes.is_main() else checkpoint.load(file)
    accuracy = _accuracy(model, ctx)
    sha256, cost = artifact.sha256_of(file), total_cost(model)
    row = replace(begun, checkpoint=file.name, sha256=sha256, cost=cost, accuracy=accuracy, notes=tuple(notes))
    shown = f"{accuracy.percent:.2f} %" if accuracy else "not measured"
    seconds = time.monotonic() - started
    progress.note(
        f"{row.label}: top-1 {shown}, {row.cost.params:,} parameters, {row.cost.macs:,} MACs ({seconds:.1f} s)"
    )
    return row


def _begun(planned: Planned, key: str) -> StageRow:
    """The row of a stage that has not run."""
    step = planned.step
    return StageRow(
        index=planned.index,
        stage=step.stage,
        knobs=knobs.plain(step.knobs),
        key=key,
        checkpoint="",
        sha256="",
        cost=Cost(0, 0, 0),
        accuracy=None,
        runtime=planned.runtime,
    )


def _staged(planned: Planned, folder: RunFolder, origin: Origin, rows: list[StageRow], ctx: Context) -> nn.Module:
    """What a stage makes of the file that the one before it wrote."""
    if not rows:
        return origin.model
    before = load_stage(folder, rows[-1])
    reference = before if len(rows) == 1 else load_stage(folder, rows[0])
    ctx = ctx.with_reference(reference)
    step = branches.share_calibration(planned, rows[-1], before, ctx, folder.stages)
    made: nn.Module = order.stage(step.stage)(before, ctx, **step.knobs)
    return made


def _accuracy(model: nn.Module, ctx: Context) -> Proportion | None:
    """Top-1 of a model in eager PyTorch on the test split; each image is judged once, by one of the processes."""
    if ctx.data is None or models.spec_of(model).output != "logits":
        return None
    split, preprocessing = ctx.data.test, models.spec_of(model).preprocessing
    mine = processes.share(len(split))
    steps = data.batches(split, preprocessing, EVALUATION_BATCH, rows=mine)
    seen = progress.track(steps, "evaluate", -(-len(mine) // EVALUATION_BATCH))
    judged = graph.clone(model).to(ctx.device)
    right = [top1(models.predict(judged, [images]).numpy(), labels.numpy()).correct for images, labels in seen]
    return Proportion(int(processes.total(torch.tensor(sum(right)))), len(split))


def _device(asked: str) -> str:
    """The device that is asked for.

    Raises:
        BackendMissing: this machine has no such device.
    """
    if asked in ("auto", "cuda"):
        asked = processes.device() if asked == "auto" or torch.cuda.is_available() else asked
    number = int(asked.partition(":")[2] or 0)
    if asked.startswith("cuda") and number >= torch.cuda.device_count():
        raise BackendMissing(f"There is no {asked} here.", "Set device: cpu, or install a CUDA build of PyTorch.")
    return asked


def _content_of(step: Step) -> list[Any]:
    """A stage's knobs, and what the files hold that they name; one that is missing is for the stage to refuse."""
    files = [value for value in step.knobs.values() if isinstance(value, Path) and value.is_file()]
    return [knobs.plain(step.knobs), *map(artifact.sha256_of, files)]


def _content(model: nn.Module) -> Any:
    """What of a model its key depends on: description and weights, whatever file they came from."""
    sums = {
        name: hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in model.state_dict().items()
    }
    return [repr(models.spec_of(model)), [repr(edit) for edit in edits(model)], sums]
