"""Sparse learning before the cut: train until the channels that will leave matter less (DepGraph, arXiv:2301.12900)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rescompress import graph
from rescompress.context import Context
from rescompress.pruning.groups import Group
from rescompress.pruning.plan import Cut
from rescompress.pruning.slices import Slice, slices
from rescompress.training import Batch, Schedule, train

Scores = Callable[[nn.Module, Group], Float[Tensor, " c"]]
ALPHA = 4
"""The least important channel is pressed 2^4 times as hard as the most important one, as in DepGraph."""
TINY = 1e-12


@dataclass(frozen=True)
class Sparsity:
    """Whether and how channels are pressed towards zero before they are cut.

    Attributes:
        penalty: group_lasso presses each channel's norm from the first step on; growing presses its squared norm, from
            nothing at the first step to all of it at the last.
        strength: pull on the least important channels, in units of a weight decay.
        epochs: passes over the train split, before the cut.
        lr: peak learning rate of these.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    penalty: Literal["none", "group_lasso", "growing"] = "none"
    strength: Annotated[float, Field(gt=0)] = 0.05
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 2
    lr: Annotated[float, Field(gt=0)] = 0.01


@dataclass(frozen=True)
class Pressed:
    """One group under pressure.

    Attributes:
        slices: the parameters that leave with its channels.
        share: of the strength, for each channel.
        norm: mean norm of its channels before training.
    """

    slices: tuple[Slice, ...]
    share: Float[Tensor, " c"]
    norm: Float[Tensor, ""]


def sparsify(model: nn.Module, ctx: Context, groups: Sequence[Group], scores: Scores, sparsity: Sparsity) -> nn.Module:
    """A copy of the model, trained on labels and on a penalty over the channels of every group.

    Args:
        model: a classifier; it is not edited.
        ctx: where images, seed and device come from.
        groups: as ``find_groups`` gives them.
        scores: importance of a group's channels in the model as it comes; the lower, the harder a channel is pressed.
            Once a plan stands, ``staying`` presses those that it cuts.
        sparsity: which penalty, and how long and hard to train; ``none`` gives a plain copy back.

    Raises:
        RecipeError: there are no images.
        InputRefused: the model gives back maps, which have no labels.
        GateFailed: the loss exploded.
    """
    if sparsity.penalty == "none":
        return graph.clone(model)
    pressed = [press(model, group, scores(model, group), sparsity, ctx.device) for group in groups]

    def loss(student: nn.Module, batch: Batch) -> Tensor:
        inner = student.module if isinstance(student, DistributedDataParallel) else student
        cost = F.cross_entropy(student(batch.images).float(), batch.labels)
        share = (batch.step + 1) / batch.steps
        return cost + penalty(dict(inner.named_parameters()), pressed, sparsity, share)

    return train(model, ctx, Schedule(epochs=sparsity.epochs, lr=sparsity.lr), loss, "sparse learning")


def staying(cuts: Sequence[Cut]) -> Scores:
    """Scores that are 1 for every channel that a plan keeps, and 0 for those it cuts, as GReg-1 chooses.

    All pressure then falls on what will leave, and none on groups that lose nothing.
    """
    kept = {cut.group.name: cut.kept for cut in cuts}

    def scores(model: nn.Module, group: Group) -> Float[Tensor, " c"]:
        stays = kept.get(group.name, range(group.channels))
        return torch.zeros(group.channels).index_fill(0, torch.tensor(tuple(stays)), 1.0)

    return scores


def press(
    model: nn.Module, group: Group, score: Float[Tensor, " c"], sparsity: Sparsity, device: str = "cpu"
) -> Pressed:
    """How hard each channel of a group is pressed.

    With ``u_c = (I_max - I_c) / (I_max - I_min)``, the share is ``2^(4 (u_c - 1))`` under group_lasso (DepGraph's
    scale, with 1 as the largest) and ``u_c`` under growing. Where no channel is worth less than another, none is
    pressed.

    Args:
        model: whose norms count.
        group: which channels.
        score: their importance.
        sparsity: which penalty.
        device: where training runs.
    """
    u = (score.max() - score) / (score.max() - score.min()).clamp_min(torch.finfo(score.dtype).tiny)
    parts = slices(model, group)
    norm = energies(dict(model.named_parameters()), parts).detach().sqrt().mean()
    share = torch.exp2(ALPHA * (u - 1)) * u.any() if sparsity.penalty == "group_lasso" else u
    return Pressed(parts, share.to(device), norm.to(device))


def penalty(
    parameters: Mapping[str, Tensor], pressed: Sequence[Pressed], sparsity: Sparsity, share: float
) -> Float[Tensor, ""]:
    """What the loss is raised by, summed over groups and channels.

    - group_lasso (Yuan and Lin 2006): ``strength * n * share_c * |w_c|_2``, where ``n`` is the group's mean norm before
      training, so that a channel of that norm is pulled as by a weight decay;
    - growing (GReg; Wang et al. 2020, arXiv:2012.09243): ``strength * t * share_c * |w_c|_2^2 / 2``, where ``t`` grows
      from 0 to 1 in the course of the training.

    Args:
        parameters: of the model that is trained.
        pressed: its groups.
        sparsity: which penalty, and its strength.
        share: ``t``.
    """
    sums = []
    for each in pressed:
        e = energies(parameters, each.slices)
        if sparsity.penalty == "group_lasso":
            sums.append(each.norm * (each.share * (e + TINY).sqrt()).sum())
        else:
            sums.append(share / 2 * (each.share * e).sum())
    return sparsity.strength * torch.stack(sums).sum()


def energies(parameters: Mapping[str, Tensor], parts: Sequence[Slice]) -> Float[Tensor, " c"]:
    """``|w_c|_2^2`` of each channel, over all that leaves with it."""
    return torch.stack([each.sums(parameters[each.parameter].square()) for each in parts]).sum(0)
