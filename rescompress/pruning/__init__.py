"""Structured pruning: whole channels leave, and the network gets smaller for every runtime."""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from rescompress import models, progress
from rescompress.context import Context
from rescompress.errors import InputRefused
from rescompress.knobs import Choice, Folder, checked
from rescompress.pruning.groups import Group, find_groups
from rescompress.pruning.plan import Cut, plan
from rescompress.pruning.surgery import cut_channels

__all__ = ["Cut", "Group", "cut_channels", "find_groups", "plan", "prune"]

IMPORTANCE = Folder("rescompress.pruning.importance", "score")


@checked
def prune(
    model: nn.Module,
    ctx: Context,
    *,
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3,
    importance: Annotated[Choice, IMPORTANCE] = "l1",
    round_to: Annotated[int, Field(ge=1, le=128)] = 16,
    keep: tuple[str, ...] = (),
) -> nn.Module:
    """Remove the least important channels of every dependency group.

    Layers that share channels through residual adds lose the same ones (DepGraph, Fang et al. 2023, arXiv:2301.12900).
    The model's inputs and outputs stay as they are. A grouped convolution and a GroupNorm lose whole groups.

    Args:
        model: a float model; it is not edited.
        ctx: not needed by this stage.
        ratio: fraction of each group's channels that is removed, before rounding.
        importance: how a channel's worth is judged; larger is kept.
        round_to: the channels kept are a multiple of this (the nearest, never none), as runtimes like them.
        keep: layers whose outputs stay, by name or pattern, such as ``backbone.fpn.*``.

    Raises:
        InputRefused: no group of the model can be cut, or the cut network doesn't run.
    """
    spec = models.spec_of(model)
    score = IMPORTANCE.bind(importance)
    groups, refused = find_groups(model, spec.input_shape, keep)
    for layer in refused:
        progress.note(f"prune: channels tied to {layer} are kept: that layer can't be cut safely.")
    if not groups:
        raise InputRefused("No channel of this model can be cut safely.", "Leave prune out of the recipe.")
    cuts = plan(groups, [score(model, group) for group in groups], ratio=ratio, round_to=round_to)
    pruned = cut_channels(model, cuts)
    _check(pruned, spec.input_shape)
    return pruned


def _check(pruned: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """A dependency that was missed shows as a shape error here, not in the user's hands."""
    try:
        models.predict(pruned, [torch.zeros(2, *input_shape)])
    except RuntimeError as error:
        raise InputRefused(
            f"The pruned network doesn't run: {str(error).splitlines()[0]}.",
            "This architecture has a dependency that isn't understood; please report it.",
        ) from None
