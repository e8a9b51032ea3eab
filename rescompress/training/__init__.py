"""Training: one loop for fine-tuning, distillation, sparse learning and QAT, on one device or many."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rescompress.context import Context
from rescompress.knobs import checked
from rescompress.training.batches import Batch
from rescompress.training.loop import Loss, train
from rescompress.training.norms import refresh_norms
from rescompress.training.schedule import DEFAULT_SCHEDULE, Schedule
from rescompress.training.softened import softened

__all__ = ["DEFAULT_SCHEDULE", "Batch", "Loss", "Schedule", "fit", "refresh_norms", "softened", "train"]


@checked
def fit(
    model: nn.Module,
    ctx: Context,
    *,
    schedule: Schedule = DEFAULT_SCHEDULE,
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """Train a model on the labels of the train split.

    Args:
        model: a float model; it is not edited.
        ctx: where images and seed come from.
        schedule: how long and how hard to train.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2015, arXiv:1512.00567).

    Raises:
        RecipeError: there are no images.
        GateFailed: the loss exploded.
    """

    def cross_entropy(student: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(student(batch.images).float(), batch.labels, label_smoothing=label_smoothing)

    return train(model, ctx, schedule, cross_entropy, "fit")
