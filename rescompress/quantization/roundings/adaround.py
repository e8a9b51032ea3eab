"""Learned for each weight, block by block, from what the float network puts out (arXiv:2004.10568)."""

from collections.abc import Iterable
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, fx

from rescompress.quantization.blocks import Unit
from rescompress.quantization.rounding import DEFAULT, AdaRound, adaround

SHOWN = True
EXACT = False


def round_weights(
    traced: fx.GraphModule,
    batches: Iterable[Float[Tensor, "_ 3 h w"]],
    generator: torch.Generator,
    *,
    steps: Annotated[int, Field(ge=1)] = DEFAULT.steps,
    images: Annotated[int, Field(ge=16)] = DEFAULT.images,
    lr: Annotated[float, Field(gt=0)] = DEFAULT.lr,
    unit: Unit = DEFAULT.unit,
) -> tuple[str, ...]:
    """Learn the rounding of all quantized weights, in place.

    Args:
        traced: a quantized model whose scales are set.
        batches: normalized images.
        generator: draws the order of the batches.
        steps: gradient steps for each part of the network.
        images: how many are shown; an eighth of them judges the outcome.
        lr: learning rate of Adam.
        unit: what is reconstructed at a time.
    """
    return adaround(traced, batches, AdaRound(steps=steps, images=images, lr=lr, unit=unit), generator)
