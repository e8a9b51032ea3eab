"""The maps themselves, by their squared error, as Ba and Caruana 2014 (arXiv:1312.6184) do with logits; no labels."""

import torch
from jaxtyping import Float
from torch import Tensor

from rescompress.distillation.answers import Answer
from rescompress.training import Batch

READS = "maps"
LEAST = 1e-12


def loss(student: Answer, teacher: Answer, batch: Batch) -> Float[Tensor, ""]:
    """Mean over all maps of ``‖s - t‖² / ‖t‖²`` for the student's map s and the teacher's map t.

    Args:
        student: with its maps.
        teacher: with maps of the same shapes.
        batch: not read.
    """
    return relative_error(student.outputs, teacher.outputs)


def relative_error(
    student: tuple[Float[Tensor, "b ..."], ...], teacher: tuple[Float[Tensor, "b ..."], ...]
) -> Float[Tensor, ""]:
    """Mean over pairs of the squared error in units of the teacher's energy in the batch; 0 for no pairs."""
    errors = [
        (s - t).square().mean() / t.square().mean().clamp_min(LEAST) for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(errors).mean() if errors else torch.zeros(())
