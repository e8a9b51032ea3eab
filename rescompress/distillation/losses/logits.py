"""Softened logits (Hinton, Vinyals and Dean 2015, arXiv:1503.02531)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rescompress.distillation.answers import Answer, Share, Temperature
from rescompress.training import Batch

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
    log_p = F.log_softmax(student.logits / temperature, dim=1)
    log_q = F.log_softmax(teacher.logits / temperature, dim=1)
    imitation = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    return alpha * temperature**2 * imitation + (1 - alpha) * F.cross_entropy(student.logits, batch.labels)
