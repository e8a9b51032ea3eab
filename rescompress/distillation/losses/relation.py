"""Relational distillation: distances and angles between the images of a batch (Park et al. 2019, arXiv:1904.05068)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from rescompress.distillation.answers import Answer, Share, Temperature, Weight
from rescompress.distillation.losses._outputs import outputs
from rescompress.training import Batch

READS = "features"
TRIPLES_OF = 128
"""Angles are compared among so many images of a batch: their number grows with the cube."""
LEAST = 1e-6


def loss(
    student: Answer,
    teacher: Answer,
    batch: Batch,
    *,
    distance: Weight = 2.5,
    angle: Weight = 5.0,
    temperature: Temperature = 4.0,
    alpha: Share = 0.9,
) -> Float[Tensor, ""]:
    """Softened logits, ``λ_D`` times the Huber loss of distances and ``λ_A`` times that of angles.

    Both are taken between the coarsest features, averaged over their places; distances are divided by their mean.
    The paper's λ of 25 and 50 are for training from scratch without softened logits; the defaults are a tenth.

    Args:
        student: with logits and features; channels need not be the teacher's.
        teacher: with logits and features.
        batch: with the labels.
        distance: λ_D, of all pairs of images.
        angle: λ_A, of all triples.
        temperature: of the softened logits.
        alpha: weight of the teacher's logits against the labels.
    """
    (far_s, angles_s), (far_t, angles_t) = (relations(each.features[-1]) for each in (student, teacher))
    pairs, triples = ~torch.eye(len(far_s)).bool(), distinct(len(angles_s))
    relational = distance * _huber(far_s, far_t, pairs) + angle * _huber(angles_s, angles_t, triples)
    return outputs(student, teacher, batch, temperature, alpha) + relational


def relations(feature: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b b"], Float[Tensor, "t t t"]]:
    """Distances of images i and j in units of their mean, and cosines of the angles that i and k make at j.

    Returns:
        ``[i, j]``, and ``[j, i, k]`` of the first images.
    """
    x = feature.mean((2, 3))
    x = x - x.mean(0)  # relations don't see it, and small differences of large numbers are lost
    x = x / x.square().mean().clamp_min(LEAST**2).sqrt()
    gram = x @ x.T
    square = gram.diagonal()
    far = (square[:, None] + square[None] - 2 * gram).clamp_min(LEAST).sqrt()
    pairs = ~torch.eye(len(x), device=x.device).bool()
    mean = (far * pairs).sum() / pairs.sum().clamp_min(1)
    g, d = gram[:TRIPLES_OF, :TRIPLES_OF], far[:TRIPLES_OF, :TRIPLES_OF]
    # (x_i - x_j) · (x_k - x_j), from inner products alone
    products = g[None] - g[:, :, None] - g[:, None, :] + g.diagonal()[:, None, None]
    return far / mean.clamp_min(LEAST), products / (d[:, :, None] * d[:, None, :])


def distinct(count: int) -> Bool[Tensor, "t t t"]:
    """Which triples are of three different images."""
    pairs = ~torch.eye(count).bool()
    return pairs[:, :, None] & pairs[:, None, :] & pairs[None]


def _huber(student: Float[Tensor, "..."], teacher: Float[Tensor, "..."], mask: Bool[Tensor, "..."]) -> Tensor:
    """Mean Huber loss where the mask is; 0 where it is nowhere, as in a batch of two without triples."""
    mask = mask.to(student.device)
    return (F.smooth_l1_loss(student, teacher, reduction="none") * mask).sum() / mask.sum().clamp_min(1)
