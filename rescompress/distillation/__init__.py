"""Distillation: the student imitates the teacher."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from rescompress import catalog, models, progress
from rescompress.context import Context
from rescompress.distillation import taps, teacher as teachers
from rescompress.distillation.answers import Answer
from rescompress.errors import InputRefused, RecipeError
from rescompress.knobs import Choice, Folder, checked, only_item
from rescompress.spec import Output
from rescompress.training import DEFAULT_SCHEDULE, Batch, Schedule, train

LOSSES = Folder("rescompress.distillation.losses", "loss")


@checked
def distill(
    model: nn.Module,
    ctx: Context,
    *,
    schedule: Schedule = DEFAULT_SCHEDULE,
    loss: Annotated[Choice, LOSSES] = "logits",
    teacher: Annotated[Path | None, Field()] = None,
    cache: bool = False,
) -> nn.Module:
    """Train a model to give the answers of a teacher, by default of the untouched model.

    A network without classes learns from the teacher's maps or features alone.

    Args:
        model: a float model; it is not edited.
        ctx: where images, seed and the reference model come from.
        schedule: how long and how hard to train.
        loss: what of the teacher is imitated.
        teacher: checkpoint of another teacher with the same classes; none means the untouched model.
        cache: ask the teacher once for each image of the train split and not in every epoch; only where the images
            are the same in every epoch, and for losses that read nothing but logits.

    Raises:
        RecipeError: there are no images or there is no teacher, or its answers can't be cached.
        InputRefused: the teacher tells other classes apart, or has nothing that the loss could compare.
    """
    spec = models.spec_of(model)
    guide = teachers.find(teacher, ctx, spec)
    name, _ = only_item(LOSSES.check(loss))
    reads = _reads(name)
    _check(name, spec.output)
    if cache and not (reads == "logits" and schedule.plain):
        raise RecipeError(
            f"The teacher's answers can't be cached: {_changing(name, reads)}.", "Leave cache out, or set it to false."
        )
    pairs = taps.pair(model, guide.model, spec.input_shape) if reads == "features" else taps.Pairs()
    same = _same_maps(model, guide, reads) if spec.output == "maps" else True
    helper = _helper(name, pairs, ctx.device)
    known = guide.train_logits(ctx, schedule.batch) if cache else None
    imitate = LOSSES.bind(loss)

    def from_teacher(student: nn.Module, batch: Batch) -> Tensor:
        theirs = guide.answer(batch.images, pairs.teacher) if known is None else _recall(known, batch)
        mine = teachers.answer_of(student, batch.images, pairs.student, spec)
        with torch.autocast(torch.device(ctx.device).type, enabled=False):
            if helper is not None:
                mine = replace(mine, features=helper(mine.features))
            answers = (mine, theirs) if same else map(teachers.without_outputs, (mine, theirs))
            value: Tensor = imitate(*answers, batch)
        return value

    return train(model, ctx, schedule, from_teacher, "distill", extra=helper, labels=spec.output == "logits")
