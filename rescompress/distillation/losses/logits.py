"""Softened logits (Hinton, Vinyals and Dean 2015, arXiv:1503.02531)."""

from jaxtyping import Float
from torch import Tensor

from rescompress.distillation.answers import Answer, Share, Temperature
from rescompress.training import Batch, softened

READS = "logits"


def loss(
    student: Answer, teacher: Answer, batch: Batch, *, temperature: Temperature = 4.0, alpha: Share = 0.9
) -> Float[Tensor, ""]:
    """``α T² KL(softmax(v / T) ‖ softmax(z / T)) + (1 - α) CE(z, y)`` for student logits z and teacher logits v.

    Args:
        student: with its logits z.
        teacher: with its logits v.
        batch: with the true classes y, or soft targets.
        temperature: T; higher shows more of how the teacher ranks the wrong classes.
        alpha: weight of the teacher against the labels.
    """
    return softened(student.logits, teacher.logits, batch.labels, temperature, alpha)
