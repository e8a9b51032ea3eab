"""The outputs' part of a loss that compares features."""

from jaxtyping import Float
from torch import Tensor

from rescompress.distillation.answers import Answer, Share, Temperature
from rescompress.distillation.losses import logits, maps
from rescompress.training import Batch


def outputs(
    student: Answer, teacher: Answer, batch: Batch, temperature: Temperature, alpha: Share
) -> Float[Tensor, ""]:
    """Softened logits and labels for a classifier, the maps' error for a network without classes.

    Features are imitated beside the outputs, not instead of them: Zagoruyko and Komodakis 2016 (arXiv:1612.03928,
    table 1) and Tian et al. 2019 (arXiv:1910.10699, table 5) find both together better than either.
    """
    if student.kind == "maps":
        return maps.loss(student, teacher, batch)
    return logits.loss(student, teacher, batch, temperature=temperature, alpha=alpha)
