"""The only training loop: fine-tuning, distillation and QAT are the same loop with other losses."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, pi
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from rescompress import data, graph, models, progress
from rescompress.context import Context
from rescompress.data import Split
from rescompress.errors import GateFailed, InputRefused
from rescompress.knobs import checked
from rescompress.layers import settled
from rescompress.spec import Preprocessing

Loss = Callable[[nn.Module, Float[Tensor, "b 3 h w"], Int[Tensor, " b"]], Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train.

    Attributes:
        epochs: passes over the train split.
        batch: images per step.
        lr: peak learning rate of SGD with Nesterov momentum; it warms up linearly and decays along a cosine.
        momentum: of SGD.
        weight_decay: L2 penalty on convolution and linear weights; biases and BatchNorm are spared.
        warmup: share of all steps in which the learning rate rises.
        augment: random shifts of an eighth of the side, and random mirror images, drawn per batch.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    batch: Annotated[int, Field(ge=2, le=65_536)] = 128
    lr: Annotated[float, Field(gt=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    augment: Literal["none", "shift", "shift+mirror"] = "shift"


DEFAULT_SCHEDULE = Schedule()


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
        GateFailed: the loss is no longer a number.
    """

    def cross_entropy(student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(student(images), labels, label_smoothing=label_smoothing)

    return train(model, ctx, schedule, cross_entropy, "fit")


def train(model: nn.Module, ctx: Context, schedule: Schedule, loss: Loss, purpose: str) -> nn.Module:
    """A trained copy of the model; equal seeds, data and thread counts give equal weights on a CPU.

    Args:
        model: what to start from.
        ctx: where images and seed come from.
        schedule: how long and how hard to train.
        loss: from model, normalized images and labels to the mean loss of a batch.
        purpose: names the stage in messages and gives it random draws of its own.
    """
    images = ctx.images(purpose)
    if models.spec_of(model).output != "logits":
        raise InputRefused(f"{purpose} trains classifiers, and this model gives back maps.", "Leave the stage out.")
    preprocessing = models.spec_of(model).preprocessing
    student = graph.clone(model).to(ctx.device).train()
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # a fifth faster on CPUs
    optimizer = _optimizer(student, schedule)
    steps = schedule.epochs * len(_batches(torch.arange(len(images.train)), schedule.batch))
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, schedule.warmup))
    source = _epochs(images.train, preprocessing, schedule, ctx.generator(purpose))
    for batch, labels in progress.track(source, purpose, steps):
        value = loss(student, batch.to(ctx.device), labels.to(ctx.device))
        if not torch.isfinite(value):
            raise GateFailed(f"The loss of {purpose} is no longer a number.", "Lower schedule.lr or raise warmup.")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        optimizer.step()
        rate.step()
    optimizer.zero_grad(set_to_none=True)
    for tensor in (*student.cpu().parameters(), *student.buffers()):
        tensor.data = settled(tensor)
    return student.eval()


def _optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    weights = [p for p in model.parameters() if p.dim() > 1]
    spared = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": schedule.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=schedule.lr, momentum=schedule.momentum, nesterov=schedule.momentum > 0)


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: a linear rise, then half a cosine to zero."""
    rise = max(1, int(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + cos(pi * (step - rise) / max(1, steps - rise)))


def _epochs(
    split: Split, preprocessing: Preprocessing, schedule: Schedule, generator: torch.Generator
) -> Iterator[tuple[Float[Tensor, "b 3 h w"], Int[Tensor, " b"]]]:
    """Shuffled, augmented and normalized batches of every epoch."""
    for _ in range(schedule.epochs):
        order = torch.randperm(len(split), generator=generator)
        for chosen in _batches(order, schedule.batch):
            pixels = _augment(split.read(chosen.tolist()), schedule.augment, generator)
            yield data.normalize(pixels, preprocessing), split.labels[chosen]


def _batches(order: Int[Tensor, " n"], size: int) -> list[Int[Tensor, " _"]]:
    """Batches of so many; a single image left over joins the one before, for BatchNorm can't train on it."""
    batches = list(torch.split(order, size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _augment(images: UInt8[Tensor, "b 3 h w"], kind: str, generator: torch.Generator) -> UInt8[Tensor, "b 3 h w"]:
    """Shift each image by up to an eighth of its side, zeros coming in, and mirror every other one."""
    if kind == "none":
        return images
    n, _, h, w = images.shape
    reach = max(1, h // 8)
    padded = F.pad(images, (reach,) * 4)
    down = torch.randint(0, 2 * reach + 1, (n, 1, 1, 1), generator=generator)
    right = torch.randint(0, 2 * reach + 1, (n, 1, 1, 1), generator=generator)
    rows = (torch.arange(h).view(1, 1, h, 1) + down).expand(n, 3, h, padded.shape[3])
    columns = torch.arange(w).view(1, 1, 1, w) + right
    if kind == "shift+mirror":
        mirror = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
        columns = torch.where(mirror, columns.flip(3), columns)
    return padded.gather(2, rows).gather(3, columns.expand(n, 3, h, w))
