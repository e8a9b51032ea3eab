"""Each weight to the nearest step: nothing to learn."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, fx

SHOWN = False
EXACT = False


def round_weights(
    traced: fx.GraphModule, batches: Iterable[Float[Tensor, "_ 3 h w"]], generator: torch.Generator
) -> tuple[str, ...]:
    """Leave the weights as they are; the fake-quants round them to nearest."""
    return ()
