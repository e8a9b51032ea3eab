"""Structured pruning: whole channels leave, and the network gets smaller for every runtime."""

from typing import Annotated

from pydantic import Field
from torch import nn

from rescompress import models, progress
from rescompress.context import Context
from rescompress.errors import InputRefused
from rescompress.knobs import Choice, Folder, checked, only_item
from rescompress.pruning.evidence import evidence_for
from rescompress.pruning.groups import Group, find_groups
from rescompress.pruning.plan import Cut, plan
from rescompress.pruning.surgery import cut_channels, proven

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
    The model's inputs and outputs stay as they are, and what is cut is proven first: the smaller network must answer as
    the whole one does with the same channels silenced. A grouped convolution and a GroupNorm lose whole groups.

    Args:
        model: a float model; it is not edited.
        ctx: where images come from, for an importance that reads gradients.
        ratio: fraction of each group's channels that is removed, before rounding.
        importance: how a channel's worth is judged; larger is kept.
        round_to: the channels kept are a multiple of this (the nearest, never none), as runtimes like them.
        keep: layers whose outputs stay, by name or pattern, such as ``backbone.fpn.*``.

    Raises:
        InputRefused: no group of the model can be cut, or the importance can't judge one.
        RecipeError: the importance reads gradients, and there are no images.
    """
    spec = models.spec_of(model)
    score = IMPORTANCE.bind(importance)
    groups, refused = find_groups(model, spec.input_shape, keep)
    for layer in refused:
        progress.note(f"prune: channels tied to {layer} are kept: that layer can't be cut safely.")
    evidence = evidence_for(only_item(importance)[0], model, ctx)
    cuts = plan(groups, [score(model, group, evidence) for group in groups], ratio=ratio, round_to=round_to)
    safe = proven(model, cuts, spec.input_shape)
    for cut in cuts:
        if cut not in safe:
            progress.note(f"prune: {cut.group.name} keeps its channels: cutting them changes what others compute.")
    if not safe:
        raise InputRefused("No channel of this model can be cut safely.", "Leave prune out of the recipe.")
    return cut_channels(model, safe)
