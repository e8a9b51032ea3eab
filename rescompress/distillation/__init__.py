"""Distillation: the student imitates the teacher."""

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from rescompress import checkpoint, graph, models
from rescompress.context import Context, fit_data
from rescompress.errors import RecipeError
from rescompress.knobs import Choice, Folder, checked
from rescompress.training import DEFAULT_SCHEDULE, Schedule, train

LOSSES = Folder("rescompress.distillation.losses", "loss")


@checked
def distill(
    model: nn.Module,
    ctx: Context,
    *,
    schedule: Schedule = DEFAULT_SCHEDULE,
    loss: Annotated[Choice, LOSSES] = "logits",
    teacher: Annotated[Path | None, Field()] = None,
) -> nn.Module:
    """Train a model to give the answers of a teacher, by default of the untouched model.

    Args:
        model: a float model; it is not edited.
        ctx: where images, seed and the reference model come from.
        schedule: how long and how hard to train.
        loss: what of the teacher is imitated.
        teacher: checkpoint of another teacher with the same classes; none means the untouched model.

    Raises:
        RecipeError: there are no images, or there is no teacher.
        InputRefused: the teacher tells other classes apart.
    """
    guide = checkpoint.load(teacher) if teacher else ctx.reference
    if guide is None:
        raise RecipeError("distill has no teacher.", "Give one with teacher:, or a context with a reference model.")
    fit_data(ctx.images("distill"), models.spec_of(guide))
    guide = graph.clone(guide).to(ctx.device)
    imitate = LOSSES.bind(loss)

    def from_teacher(student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad(), graph.evaluating(guide):
            answer = guide(images)
        value: Tensor = imitate(student(images), answer, labels)
        return value

    return train(model, ctx, schedule, from_teacher, "distill")
