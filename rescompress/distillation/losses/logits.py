"""Softened logits (Hinton, Vinyals and Dean 2015, arXiv:1503.02531)."""

from typing import Annotated

import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor


def loss(
    student: Float[Tensor, "b k"],
    teacher: Float[Tensor, "b k"],
    labels: Int[Tensor, " b"],
    *,
    temperature: Annotated[float, Field(gt=0)] = 4.0,
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9,
) -> Float[Tensor, ""]:
    """``α T² KL(softmax(v / T) ‖ softmax(z / T)) + (1 - α) CE(z, y)`` for student logits z and teacher logits v.

    Args:
        student: its logits z.
        teacher: its logits v.
        labels: the true classes y.
        temperature: T; higher shows more of how the teacher ranks the wrong classes.
        alpha: weight of the teacher against the labels.
    """
    log_p = F.log_softmax(student / temperature, dim=1)
    log_q = F.log_softmax(teacher / temperature, dim=1)
    imitation = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    return alpha * temperature**2 * imitation + (1 - alpha) * F.cross_entropy(student, labels)
