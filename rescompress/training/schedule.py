"""How long and how hard to train: one frozen group of knobs that every trained stage shares."""

from dataclasses import dataclass
from math import cos, pi
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from torch import nn

Augment = Literal["none", "shift", "shift+mirror"]


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train.

    Attributes:
        epochs: passes over the train split.
        batch: images per step, over all devices together.
        lr: peak learning rate; it warms up linearly and decays along a cosine.
        optimizer: SGD with Nesterov momentum, or AdamW.
        momentum: of SGD; the first beta of AdamW.
        weight_decay: L2 penalty on convolution and linear weights; biases and BatchNorm are spared.
        warmup: share of all steps in which the learning rate rises.
        augment: random shifts of an eighth of the side, and random mirror images, drawn per image.
        randaugment: magnitude of RandAugment's two operations (Cubuk et al. 2019, arXiv:1909.13719); 0 leaves it out.
        mixup: alpha of mixup (Zhang et al. 2017, arXiv:1710.09412); 0 leaves it out.
        cutmix: alpha of CutMix (Yun et al. 2019, arXiv:1905.04899); 0 leaves it out; beside mixup it takes every other
            step.
        ema: decay of the moving average of the weights that is given back; 0 gives back the last weights.
        clip: largest norm of all gradients together; 0 leaves them as they are.
        amp: compute in half precision where PyTorch holds that safe; weights stay in single precision.
        patience: epochs without a better accuracy on the calibration split after which training ends; the best epoch
            is given back. 0 trains to the end.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    batch: Annotated[int, Field(ge=2, le=65_536)] = 128
    lr: Annotated[float, Field(gt=0)] = 0.05
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    augment: Augment = "shift"
    randaugment: Annotated[int, Field(ge=0, le=30)] = 0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip: Annotated[float, Field(ge=0)] = 0.0
    amp: Literal["off", "bf16", "fp16"] = "off"
    patience: Annotated[int, Field(ge=0)] = 0

    @property
    def plain(self) -> bool:
        """Whether every epoch shows the images as they are."""
        return self.augment == "none" and not (self.randaugment or self.mixup or self.cutmix)


DEFAULT_SCHEDULE = Schedule()


def optimizer_of(schedule: Schedule, *modules: nn.Module | None) -> torch.optim.Optimizer:
    """The optimizer of all parameters of these modules; those of one dimension are spared the weight decay."""
    parameters = [parameter for module in modules if module is not None for parameter in module.parameters()]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=schedule.lr, betas=(schedule.momentum, 0.999))
    return torch.optim.SGD(groups, lr=schedule.lr, momentum=schedule.momentum, nesterov=schedule.momentum > 0)


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: a linear rise, then half a cosine to zero."""
    rise = max(1, int(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + cos(pi * (step - rise) / max(1, steps - rise)))
