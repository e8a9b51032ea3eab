"""Hints: features through a learned regressor are the teacher's (FitNets, Romero et al. 2014, arXiv:1412.6550)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from rescompress.distillation.answers import Answer, Share, Temperature, Weight
from rescompress.distillation.losses._outputs import outputs
from rescompress.distillation.losses.maps import relative_error
from rescompress.training import Batch

READS = "features"


class Regressors(nn.Module):
    """A 1 x 1 convolution for each pair of features, which starts by passing channels on."""

    def __init__(self, student: Sequence[int], teacher: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(s, t, 1) for s, t in zip(student, teacher, strict=True))
        for conv in self.convs:
            nn.init.dirac_(conv.weight)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, features: tuple[Float[Tensor, "b _ _ _"], ...]) -> tuple[Float[Tensor, "b _ _ _"], ...]:
        """The student's features with the teacher's channels."""
        return tuple(conv(feature) for conv, feature in zip(self.convs, features, strict=True))


def helper(student_channels: Sequence[int], teacher_channels: Sequence[int]) -> nn.Module:
    """The regressors, trained along with the student and then thrown away."""
    return Regressors(student_channels, teacher_channels)


def loss(
    student: Answer,
    teacher: Answer,
    batch: Batch,
    *,
    weight: Weight = 1.0,
    temperature: Temperature = 4.0,
    alpha: Share = 0.9,
) -> Float[Tensor, ""]:
    """Softened logits and ``w`` times the mean over features of ``‖r(s) - t‖² / ‖t‖²``.

    The paper has one hint, in the middle, and the plain squared error; here each spatial size has one, and each error
    is divided by the teacher's own energy, so that one weight does for all layers and networks.

    Args:
        student: with logits and regressed features r(s).
        teacher: with logits and features t.
        batch: with the labels.
        weight: w.
        temperature: of the softened logits.
        alpha: weight of the teacher's logits against the labels.
    """
    hints = relative_error(student.features, teacher.features)
    return outputs(student, teacher, batch, temperature, alpha) + weight * hints
