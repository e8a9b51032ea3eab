"""Softened logits (Hinton, Vinyals and Dean 2015, arXiv:1503.02531): what distillation and QAT both imitate."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def softened(
    z: Float[Tensor, "b k"],
    v: Float[Tensor, "b k"],
    labels: Int[Tensor, " b"] | Float[Tensor, "b k"],
    temperature: float,
    alpha: float,
) -> Float[Tensor, ""]:
    """``α T² KL(softmax(v / T) ‖ softmax(z / T)) + (1 - α) CE(z, y)``.

    Args:
        z: the student's logits.
        v: the teacher's.
        labels: the true classes y, or soft targets.
        temperature: T; higher shows more of how the teacher ranks the wrong classes.
        alpha: weight of the teacher against the labels.
    """
    log_p, log_q = F.log_softmax(z / temperature, dim=1), F.log_softmax(v / temperature, dim=1)
    imitation = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    return alpha * temperature**2 * imitation + (1 - alpha) * F.cross_entropy(z, labels)
