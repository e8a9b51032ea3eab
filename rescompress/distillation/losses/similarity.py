"""Images alike to the teacher are so to the student (Tung and Mori 2019, arXiv:1907.09682)."""

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
    gamma: Weight = 300.0,
    temperature: Temperature = 4.0,
    alpha: Share = 0.9,
) -> Float[Tensor, ""]:
    """Softened logits and ``γ / b² Σ ‖G_T - G_S‖²`` over the sizes; G is the images' similarity, its rows of length 1.

    Args:
        student: with logits and features; channels need not be the teacher's.
        teacher: with logits and features.
        batch: with the labels.
        gamma: γ; beside softened logits a tenth of the paper's 3000 does better in a short recovery.
        temperature: of the softened logits.
        alpha: weight of the teacher's logits against the labels.
    """
    pairs = zip(student.features, teacher.features, strict=True)
    errors = [(similarity(t) - similarity(s)).square().mean() for s, t in pairs]
    return outputs(student, teacher, batch, temperature, alpha) + gamma * torch.stack(errors).sum()


def similarity(feature: Float[Tensor, "b c h w"]) -> Float[Tensor, "b b"]:
    """Inner products of all images' features, each row scaled to unit length."""
    rows = feature.flatten(1)
    return F.normalize(rows @ rows.T, dim=1)
