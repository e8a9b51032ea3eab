"""Decoupled knowledge distillation (Zhao et al. 2022, arXiv:2203.08679)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from rescompress.distillation.answers import Answer, Share, Temperature, Weight
from rescompress.training import Batch

READS = "logits"


def loss(
    student: Answer,
    teacher: Answer,
    batch: Batch,
    *,
    alpha: Weight = 1.0,
    beta: Weight = 2.0,
    temperature: Temperature = 4.0,
    labels: Weight = 1.0,
    warmup: Share = 0.1,
) -> Float[Tensor, ""]:
    """``CE(z, y) + T² (α TCKD + β NCKD)``: how sure the teacher is of the target, and how it ranks the others.

    With ``p_t`` the teacher's softened probability of the target class, softened logits as a whole are
    ``TCKD + (1 - p_t) NCKD``, so a sure teacher's ranking hardly counts there; here it has a weight of its own. The
    defaults are the authors' for ResNet-56 to ResNet-20 on CIFAR; on ImageNet they take β = 0.5 and T = 1.

    Args:
        student: with its logits z.
        teacher: with its logits v.
        batch: with the true classes y; of soft targets the likeliest class is the target class.
        alpha: weight of TCKD, ``KL((p_t, 1 - p_t) of the teacher ‖ that of the student)``.
        beta: weight of NCKD, ``KL(teacher ‖ student)`` among the classes that are not the target.
        temperature: T.
        labels: weight of the cross-entropy.
        warmup: share of all steps in which the teacher's weight rises; the authors' is 20 of 240 epochs.
    """
    target = batch.labels if batch.labels.dim() == 1 else batch.labels.argmax(1)
    mask = F.one_hot(target, student.logits.shape[1]).bool()
    tckd, nckd = parts(student.logits / temperature, teacher.logits / temperature, mask)
    reached = min(1.0, (batch.step + 1) / max(1.0, warmup * batch.steps))
    imitation = temperature**2 * (alpha * tckd.mean() + beta * nckd.mean())
    return labels * F.cross_entropy(student.logits, batch.labels) + reached * imitation


def parts(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], target: Bool[Tensor, "b k"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """TCKD and NCKD of each image, for logits that are already softened; ``target`` marks one class an image."""
    others = [logits[~target].view(len(logits), -1) for logits in (student, teacher)]
    rest_p, rest_q = (F.log_softmax(logits, dim=1) for logits in others)
    nckd = F.kl_div(rest_p, rest_q, reduction="none", log_target=True).sum(1)
    binary_p, binary_q = (
        F.log_softmax(torch.stack([whole[target], rest.logsumexp(1)], 1), dim=1)
        for whole, rest in zip((student, teacher), others, strict=True)
    )
    tckd = F.kl_div(binary_p, binary_q, reduction="none", log_target=True).sum(1)
    return tckd, nckd
