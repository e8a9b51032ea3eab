"""What a network answers to a batch, and what it computed on the way: all that a distillation loss may compare."""

from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from rescompress.spec import Output

Temperature = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Answer:
    """What one network made of a batch; student and teacher have as many features, pair by pair of one size.

    Attributes:
        outputs: the logits ``[b k]`` alone, or the maps; no maps where those of student and teacher can't be compared.
        features: the last value of each spatial size, finest first; empty for a loss that reads none.
        kind: what the outputs are.
    """

    outputs: tuple[Float[Tensor, "b ..."], ...]
    features: tuple[Float[Tensor, "b _ _ _"], ...] = ()
    kind: Output = "logits"

    @property
    def logits(self) -> Float[Tensor, "b k"]:
        """The scores of a classifier."""
        return self.outputs[0]
