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
from rescompress.distillation import taps
from rescompress.distillation import teacher as teachers
from rescompress.distillation.answers import Answer
from rescompress.errors import InputRefused, RecipeError
from rescompress.knobs import Choice, Folder, checked
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
    ((name, _),) = LOSSES.check(loss).items()
    _check(name, spec.output)
    if cache:
        _check_constant(name, schedule)
    guide = teachers.find(teacher, ctx, spec)
    pairs = taps.pair(model, guide.model, spec.input_shape) if _reads(name) == "features" else taps.Pairs()
    same = spec.output == "logits" or _same_maps(name, model, guide)
    helper = _helper(name, pairs, ctx.device)
    known = guide.train_logits(ctx, schedule.batch) if cache else None
    imitate = LOSSES.bind(loss)

    def from_teacher(student: nn.Module, batch: Batch) -> Tensor:
        if known is None:
            theirs = guide.answer(batch.images, pairs.teacher)
        else:
            theirs = Answer((known[batch.indices.cpu()].to(batch.images.device),))
        mine = teachers.answer_of(student, batch.images, pairs.student, spec)
        with torch.autocast(torch.device(ctx.device).type, enabled=False):
            if helper is not None:
                mine = replace(mine, features=helper(mine.features))
            if not same:
                mine, theirs = replace(mine, outputs=()), replace(theirs, outputs=())
            value: Tensor = imitate(mine, theirs, batch)
        return value

    return train(model, ctx, schedule, from_teacher, "distill", extra=helper, labels=spec.output == "logits")


def _reads(name: str) -> str:
    """What a loss compares: logits, maps or features."""
    return str(catalog.load(LOSSES.package, name).READS)


def _check(name: str, output: Output) -> None:
    """Refuse a loss that compares what the model doesn't give back.

    Raises:
        InputRefused: it does so.
    """
    if _reads(name) in (output, "features"):
        return
    fit = [other for other in catalog.names(LOSSES.package) if _reads(other) in (output, "features")]
    raise InputRefused(
        f"The loss {name} compares {_reads(name)}, and this model gives back {output}.", f"Take {' or '.join(fit)}."
    )


def _check_constant(name: str, schedule: Schedule) -> None:
    """Refuse to ask the teacher once for all epochs where its answers change, or are more than logits.

    Raises:
        RecipeError: they do so.
    """
    if _reads(name) != "logits":
        raise RecipeError(f"The loss {name} reads {_reads(name)}, which are too large to cache.", "Leave cache out.")
    if not schedule.plain:
        raise RecipeError(
            "The teacher's answers can't be cached, for it must see the same altered images as the student.",
            "Leave cache out, or set schedule.augment to none, and randaugment, mixup and cutmix to 0.",
        )


def _same_maps(name: str, student: nn.Module, teacher: teachers.Teacher) -> bool:
    """Whether maps can be compared with maps; where only their channels differ, features still can.

    Raises:
        InputRefused: they have another resolution, or the loss has nothing else to compare.
    """
    if teachers.comparable(student, teacher):
        return True
    if _reads(name) == "maps":
        raise InputRefused(
            "The maps of student and teacher have different channels.", "Take a loss that reads features, as hint."
        )
    progress.note("distill: the maps have other channels than the teacher's, so only features are imitated.")
    return False


def _helper(name: str, pairs: taps.Pairs, device: str) -> nn.Module | None:
    """The modules that a loss trains along, if it has any."""
    make: Callable[..., nn.Module] | None = getattr(catalog.load(LOSSES.package, name), "helper", None)
    widths = ([tap.channels for tap in side] for side in (pairs.student, pairs.teacher))
    return make(*widths).to(device) if make else None
