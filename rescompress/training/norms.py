"""BatchNorm statistics that fit changed weights: cheap, and without labels."""

import torch
from torch import nn

from rescompress import data, graph, models, progress
from rescompress.context import Context

IMAGES, BATCH = 2048, 128
"""Enough for a mean and a variance per channel: with 32 x 32 pixels and up, an image is itself a large sample."""


def refresh_norms(model: nn.Module, ctx: Context, images: int = IMAGES) -> nn.Module:
    """A copy whose BatchNorm statistics are averaged anew over train images, as they are, without labels.

    After a cut or a split, activations differ from those whose mean and variance the layers remember (He et al. 2018,
    arXiv:1802.03494, and Li et al. 2020, arXiv:2007.02491, show how much that costs). Where there are no images or no
    BatchNorm, the copy is as it was.

    Args:
        model: a model in float; it is not edited.
        ctx: where images come from.
        images: how many are seen at most.
    """
    fresh = graph.clone(model)
    norms = [module for module in fresh.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats]
    if ctx.data is None or not norms:
        return fresh
    momenta, training = [norm.momentum for norm in norms], [norm.training for norm in norms]
    fresh.to(ctx.device).eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True  # averages over all batches alike
    split = ctx.data.train
    count = min(images, len(split))
    order = torch.randperm(len(split), generator=ctx.generator("refresh norms"))[:count]
    preprocessing = models.spec_of(model).preprocessing
    with torch.no_grad():
        for chosen in progress.track(_even(order), "refresh BatchNorm"):
            fresh(data.normalize(split.read(chosen.tolist()), preprocessing).to(ctx.device))
    for norm, momentum, mode in zip(norms, momenta, training, strict=True):
        norm.momentum, norm.training = momentum, mode
    return fresh.cpu()


def _even(order: torch.Tensor) -> list[torch.Tensor]:
    """Batches of nearly equal size, so that each counts the same."""
    return list(order.tensor_split(max(1, -(-len(order) // BATCH))))
