"""Answers and batches that the tests of losses share."""

import torch
from torch import Tensor

from rescompress.distillation.answers import Answer
from rescompress.training import Batch

SIZES = ((8, 8), (4, 6))


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def logits(seed: int, batch: int = 6, classes: int = 10) -> Tensor:
    return 3 * draw(seed, batch, classes)


def answer(seed: int, batch: int = 6, channels: int = 5, kind: str = "logits", scale: float = 1.0) -> Answer:
    """Random outputs and features of every size, as after a ReLU."""
    features = tuple(scale * draw(seed + 7 * n, batch, channels, *size).relu() for n, size in enumerate(SIZES))
    outputs = (scale * logits(seed, batch),) if kind == "logits" else tuple(feature + 1 for feature in features)
    return Answer(outputs, features, kind)


def tensors(given: Answer) -> list[Tensor]:
    return [*given.outputs, *given.features]


def tracked(given: Answer) -> Answer:
    """The same answer as leaves of a graph of their own."""
    outputs, features = (
        tuple(tensor.detach().clone().requires_grad_() for tensor in part) for part in (given.outputs, given.features)
    )
    return Answer(outputs, features, given.kind)


def batch_of(labels: Tensor, step: int = 0, steps: int = 1) -> Batch:
    count = len(labels)
    return Batch(torch.zeros(count, 3, 2, 2), labels, torch.arange(count), step, steps)


LABELS = torch.arange(6)
BATCH = batch_of(LABELS)
