"""QAT: training goes on with the rounding in the loop, taught by the float network."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, fx, nn

from rescompress import graph, models
from rescompress.context import Context
from rescompress.fakequant import FakeQuantize, passing, sites_of
from rescompress.training import Batch, Schedule, softened, train

Scales = Literal["off", "fixed", "learned"]
SMALLEST = 2.0**-60
"""A learned scale stays above it, far below any scale that a range gives."""


@dataclass(frozen=True)
class QatSchedule(Schedule):
    """How long and how hard to train with the rounding in the loop: short and gentle, BatchNorm being folded.

    Attributes:
        epochs: passes over the train split.
        lr: peak learning rate; it warms up linearly and decays along a cosine.
        weight_decay: L2 penalty on convolution and linear weights; biases and scales are spared.
        clip: largest norm of all gradients together; 0 leaves them as they are.
    """

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 2
    lr: Annotated[float, Field(gt=0)] = 0.002
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip: Annotated[float, Field(ge=0)] = 5.0


DEFAULT_QAT = QatSchedule()


class LearnedFakeQuantize(FakeQuantize):
    """A fake-quant whose scale is trained (LSQ, Esser et al. 2020, arXiv:1902.08153); the zero-point stays.

    Args:
        quantizer: whose site, scale and zero-point it takes over.
    """

    def __init__(self, quantizer: FakeQuantize) -> None:
        super().__init__(quantizer.site)
        self.load_state_dict(quantizer.state_dict())
        self.step = nn.Parameter(quantizer.scale.clone())

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The value rounded to the grid, with gradients for the value and for the scale."""
        if not self.enabled:
            return x
        low, high = self.site.limits
        shape = (-1, *[1] * (x.dim() - 1)) if self.site.channels else (1,)
        count = x[0].numel() if self.site.channels else x.numel() / max(1, len(x))
        scale = _tamed(self.step.abs().clamp_min(SMALLEST), (count * high) ** -0.5).view(shape)
        zero_point = self.zero_point.view(shape).to(scale.dtype)
        inside = torch.minimum(torch.maximum(x / scale, low - zero_point), high - zero_point)
        return (inside + (inside.round() - inside).detach()) * scale

    @torch.no_grad()
    def fixed(self) -> FakeQuantize:
        """An ordinary fake-quant with the scale that was learned."""
        quantizer = FakeQuantize(self.site)
        quantizer.scale.copy_(self.step.abs().clamp_min(SMALLEST))
        quantizer.zero_point.copy_(self.zero_point)
        return quantizer


def train_quantized(
    traced: fx.GraphModule,
    ctx: Context,
    schedule: Schedule,
    *,
    exact: fx.GraphModule | None = None,
    scales: Literal["fixed", "learned"] = "learned",
    temperature: float = 4.0,
    alpha: float = 0.9,
) -> fx.GraphModule:
    """A trained copy of a quantized model, taught by the float network.

    Args:
        traced: a quantized model with its ranges set.
        ctx: where images, seed and device come from.
        schedule: how long and how hard to train.
        exact: the float network; none takes the model with nothing rounded, where no weight was moved either.
        scales: whether the scales are trained too, or stay as calibration found them.
        temperature: softens both networks' logits.
        alpha: weight of the teacher against the labels.

    Raises:
        RecipeError: there are no images.
        InputRefused: the model gives back maps.
        GateFailed: the loss exploded.
    """
    spec = models.spec_of(traced)
    student = graph.clone(traced)
    teacher = graph.clone(traced if exact is None else exact).to(ctx.device).requires_grad_(False)
    if scales == "learned":
        _swap(student, FakeQuantize, LearnedFakeQuantize)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad(), passing(teacher), graph.evaluating(teacher):
            v = teacher(batch.images).float()
        return softened(model(batch.images).float(), v, batch.labels, temperature, alpha)

    trained = cast(fx.GraphModule, train(student, ctx, schedule, loss, "quantize"))
    if scales == "learned":
        _swap(trained, LearnedFakeQuantize, LearnedFakeQuantize.fixed)
    assert sites_of(trained) == sites_of(traced)
    return cast(fx.GraphModule, models.describe(trained, spec))


def _swap(traced: fx.GraphModule, kind: type[nn.Module], made_of: Any) -> None:
    """Put another module in place of each of a kind, and one in place of one that stands in several places."""
    made: dict[nn.Module, nn.Module] = {}
    for name, module in list(traced.named_modules(remove_duplicate=False)):
        if isinstance(module, kind):
            made.setdefault(module, made_of(module))
            parent, _, child = name.rpartition(".")
            traced.get_submodule(parent).add_module(child, made[module])


class _Tamed(torch.autograd.Function):
    """The value itself, with a smaller gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def _tamed(x: Tensor, factor: float) -> Tensor:
    return cast(Tensor, _Tamed.apply(x, factor))  # type: ignore[no-untyped-call]
