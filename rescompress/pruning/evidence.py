"""What importances may know besides the weights: the seed, and gradients of the loss on a few training images."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rescompress import catalog, data, graph, models, processes, progress
from rescompress.context import Context
from rescompress.errors import InputRefused
from rescompress.pruning.groups import Side

PACKAGE = "rescompress.pruning.importance"
IMAGES, BATCH = 512, 16
"""Small batches: what differs between them is what second-order criteria live on."""


@dataclass(frozen=True)
class Evidence:
    """Read-only facts for every file of ``pruning/importance``; the mappings are empty where none are needed.

    Attributes:
        seed: of the run.
        squares: per parameter the squared gradient ``g^2`` of a batch's mean loss, averaged over batches.
        gates: per parameter and side, for each batch and each place of that side, ``sum g w`` over what belongs to the
            place: the slope of the loss along a factor there that is 1.
    """

    seed: int = 0
    squares: Mapping[str, Float[Tensor, "..."]] = field(default_factory=dict)
    gates: Mapping[tuple[str, Side], Float[Tensor, "b p"]] = field(default_factory=dict)


def evidence_for(importance: str, model: nn.Module, ctx: Context) -> Evidence:
    """What one criterion needs: gradients if its file says ``GRADIENTS = True``, and only then images.

    Raises:
        RecipeError: there is no such criterion, or it needs images and there are none.
        InputRefused: it needs a loss, and the model gives back maps.
    """
    needs = bool(getattr(catalog.load(PACKAGE, importance), "GRADIENTS", False))
    return gather(model, ctx) if needs else Evidence(ctx.seed)


def gather(model: nn.Module, ctx: Context, *, images: int = IMAGES) -> Evidence:
    """Gradients of the cross-entropy in eval mode, so that BatchNorm stays the affine map that it will be.

    Args:
        model: a classifier; it is not edited.
        ctx: where train images, seed and device come from.
        images: how many train images, drawn from the seed; fewer where there are fewer.

    Raises:
        RecipeError: there are no images.
        InputRefused: the model gives back maps, which have no labels.
    """
    split, spec = ctx.images("An importance that reads gradients").train, models.spec_of(model)
    if spec.output != "logits":
        raise InputRefused(
            "This importance reads gradients of a classifier's loss, and this model gives back maps.",
            "Choose an importance that reads weights only, such as l1.",
        )
    chosen = torch.randperm(len(split), generator=ctx.generator("importance"))[:images]
    twin = graph.clone(model).to(ctx.device).eval().requires_grad_(True)
    w = dict(twin.named_parameters())
    squares = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in w.items()}
    gates: dict[tuple[str, Side], list[Tensor]] = {}
    for batch in progress.track(torch.split(chosen, BATCH), "gradients"):
        pixels = data.normalize(split.read(batch.tolist()), spec.preprocessing).to(ctx.device)
        with torch.enable_grad():
            loss = F.cross_entropy(twin(pixels), split.labels[batch].to(ctx.device))
            g = torch.autograd.grad(loss, list(w.values()), materialize_grads=True)
        for name, gradient in zip(w, g, strict=True):
            squares[name] += len(batch) / len(chosen) * gradient.square()
            for side, slopes in _slopes(gradient * w[name].detach()).items():
                gates.setdefault((name, side), []).append(slopes)
    return Evidence(
        ctx.seed,
        {name: processes.told_tensor(total).cpu() for name, total in squares.items()},
        {place: processes.told_tensor(torch.stack(slopes)).cpu() for place, slopes in gates.items()},
    )


def _slopes(products: Float[Tensor, "..."]) -> dict[Side, Tensor]:
    """``g w`` of one parameter, summed to one number for each output, and where it has them for each input."""
    if products.dim() < 2:
        return {"outputs": products}
    return {"outputs": products.flatten(1).sum(1), "inputs": products.transpose(0, 1).flatten(1).sum(1)}
