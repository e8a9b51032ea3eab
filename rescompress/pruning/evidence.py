"""What importances may know besides the weights: the seed, and gradients of the loss on a few training images."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rescompress import catalog, data, graph, models, progress
from rescompress.context import Context
from rescompress.errors import InputRefused

PACKAGE = "rescompress.pruning.importance"
IMAGES, BATCH = 512, 64


@dataclass(frozen=True)
class Evidence:
    """Read-only facts for every file of ``pruning/importance``.

    Attributes:
        seed: of the run.
        gradients: per parameter the gradient of the mean cross-entropy; empty where a criterion needs none.
        squares: per parameter the squared gradient of a batch, averaged over batches; empty as above.
    """

    seed: int = 0
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    squares: Mapping[str, Tensor] = field(default_factory=dict)


def evidence_for(importance: str, model: nn.Module, ctx: Context) -> Evidence:
    """What one criterion needs: gradients if its file says ``GRADIENTS = True``, and only then images.

    Raises:
        RecipeError: there is no such criterion, or it needs images and there are none.
        InputRefused: it needs a loss, and the model gives back maps.
    """
    needs = bool(getattr(catalog.load(PACKAGE, importance), "GRADIENTS", False))
    return gather(model, ctx) if needs else Evidence(ctx.seed)


def gather(model: nn.Module, ctx: Context, *, images: int = IMAGES) -> Evidence:
    """Gradients of the cross-entropy in eval mode, so that BatchNorm stays the affine map it will be.

    Args:
        model: a classifier; it is not edited.
        ctx: where train images, seed and device come from.
        images: how many train images, drawn from the seed; fewer where there are fewer.

    Raises:
        RecipeError: there are no images.
        InputRefused: the model gives back maps, which have no labels.
    """
    split, spec = ctx.images("This importance").train, models.spec_of(model)
    if spec.output != "logits":
        raise InputRefused(
            "This importance reads gradients of a classifier's loss, and this model gives back maps.",
            "Choose an importance that reads weights only, such as l1.",
        )
    chosen = torch.randperm(len(split), generator=ctx.generator("importance"))[:images]
    twin = graph.clone(model).to(ctx.device).eval().requires_grad_(True)
    parameters = dict(twin.named_parameters())
    gradients = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in parameters.items()}
    squares = {name: torch.zeros_like(tensor) for name, tensor in gradients.items()}
    for batch in progress.track(chosen.split(BATCH), "gradients"):
        share = len(batch) / len(chosen)
        pixels = data.normalize(split.read(batch.tolist()), spec.preprocessing).to(ctx.device)
        with torch.enable_grad():
            loss = F.cross_entropy(twin(pixels), split.labels[batch].to(ctx.device))
            found = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        for name, gradient in zip(parameters, found, strict=True):
            gradients[name] += share * gradient
            squares[name] += share * gradient.square()
    cpu = [{name: tensor.cpu() for name, tensor in sums.items()} for sums in (gradients, squares)]
    return Evidence(ctx.seed, *cpu)
