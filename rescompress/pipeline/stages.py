"""Run a recipe's stages, each written to disk before the next one starts."""

import hashlib
import time
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from rescompress import __version__, artifact, checkpoint, data, knobs, metrics, models, progress
from rescompress.artifact import digest
from rescompress.context import Context
from rescompress.cost import total_cost
from rescompress.data import Data
from rescompress.edits import edits
from rescompress.errors import InputRefused, RecipeError
from rescompress.pipeline.folder import RunFolder
from rescompress.recipe import ModelChoice, Recipe, Step, order
from rescompress.spec import AS_IN_FILE, ModelSpec, Proportion, StageRow

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

    A stage always starts from the file that the one before it wrote, so that a resumed run gives the same bytes.
    """
    steps = (Step(BASELINE, {}), *job.stages)
    key = digest([__version__, origin.key, opened.fingerprint if opened else None, job.seed])
    rows: list[StageRow] = []
    for index, step in enumerate(steps):
        values = knobs.plain(step.knobs)
        key = digest([key, step.stage, values])
        row = folder.stage(f"{index:02d}-{step.stage}", key)
        if row is None:
            row = _run_stage(index, step, key, folder, origin, rows, Context(opened, job.seed))
            folder.keep_stage(row)
        rows.append(row)
    folder.keep_only([row.label for row in rows])
    return tuple(rows)


def load_stage(folder: RunFolder, row: StageRow) -> nn.Module:
    """The model that a stage left."""
    return checkpoint.load(folder.stages / row.checkpoint)


def _run_stage(
    index: int, step: Step, key: str, folder: RunFolder, origin: Origin, rows: list[StageRow], ctx: Context
) -> StageRow:
    started = time.monotonic()
    with progress.gathered() as notes:
        if rows:
            before = load_stage(folder, rows[-1])
            reference = before if len(rows) == 1 else load_stage(folder, rows[0])
            model: nn.Module = order.stage(step.stage)(before, ctx.with_reference(reference), **step.knobs)
        else:
            model = origin.model
    file = folder.stages / f"{index:02d}-{step.stage}.safetensors"
    checkpoint.save(model, file)
    accuracy = _accuracy(model, ctx.data)
    row = StageRow(
        index=index,
        stage=step.stage,
        knobs=knobs.plain(step.knobs),
        key=key,
        checkpoint=file.name,
        sha256=artifact.sha256_of(file),
        cost=total_cost(model),
        accuracy=accuracy,
        notes=tuple(notes),
    )
    shown = f"{accuracy.percent:.2f} %" if accuracy else "not measured"
    seconds = time.monotonic() - started
    progress.note(
        f"{row.label}: top-1 {shown}, {row.cost.params:,} parameters, {row.cost.macs:,} MACs ({seconds:.1f} s)"
    )
    return row


def _accuracy(model: nn.Module, opened: Data | None) -> Proportion | None:
    """Top-1 of a model in eager PyTorch on the test split."""
    if opened is None or models.spec_of(model).output != "logits":
        return None
    split, preprocessing = opened.test, models.spec_of(model).preprocessing
    steps = data.batches(split, preprocessing, EVALUATION_BATCH)
    seen = progress.track(steps, "evaluate", -(-len(split) // EVALUATION_BATCH))
    logits = models.predict(model, (images for images, _ in seen))
    return metrics.top1(logits.numpy(), split.labels.numpy())


def _content(model: nn.Module) -> Any:
    """What of a model its key depends on: description and weights, whatever file they came from."""
    sums = {
        name: hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in model.state_dict().items()
    }
    return [repr(models.spec_of(model)), [repr(edit) for edit in edits(model)], sums]
