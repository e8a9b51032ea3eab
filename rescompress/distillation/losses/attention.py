"""Attention transfer: the student looks where the teacher looks (Zagoruyko and Komodakis 2016, arXiv:1612.03928)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rescompress.distillation.answers import Answer, Share, Temperature, Weight
from rescompress.distillation.losses._outputs import outputs
from rescompress.training import Batch

READS = "features"


def loss(
    student: Answer,
    teacher: Answer,
    batch: Batch,
    *,
    beta: Weight = 100.0,
    temperature: Temperature = 4.0,
    alpha: Share = 0.9,
) -> Float[Tensor, ""]:
    """Softened logits and ``β / 2 Σ_j mean (Q_S - Q_T)²`` over the sizes j; Q is the attention map of unit length.

    The mean runs over images and places. The paper's β of 10³ is for hundreds of epochs from scratch and no softened
    logits; beside them, in a short recovery, a tenth of it does better.

    Args:
        student: with logits and features.
        teacher: with logits and features.
        batch: with the labels.
        beta: β.
        temperature: of the softened logits.
        alpha: weight of the teacher's logits against the labels.
    """
    pairs = zip(student.features, teacher.features, strict=True)
    errors = [(attention(s) - attention(t)).square().mean() for s, t in pairs]
    return outputs(student, teacher, batch, temperature, alpha) + beta / 2 * torch.stack(errors).sum()


def attention(feature: Float[Tensor, "b c h w"]) -> Float[Tensor, "b hw"]:
    """Where a network looks: the mean square over channels, one row an image, each of unit length."""
    return F.normalize(feature.square().mean(1).flatten(1), dim=1)
