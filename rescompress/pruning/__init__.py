"""Structured pruning: whole channels leave, and the network gets smaller for every runtime."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from rescompress import models, progress, training
from rescompress.benchmarking.estimators import estimator
from rescompress.benchmarking.layers import Target
from rescompress.benchmarking.whole import time_models
from rescompress.context import Context
from rescompress.knobs import Choice, Folder, agreeing, checked, only_item
from rescompress.pruning.depth import DepthPlanner
from rescompress.pruning.evidence import evidence_for
from rescompress.pruning.goals import Goal, Kind, agree, goal_of
from rescompress.pruning.groups import Group, find_groups
from rescompress.pruning.measured import Plans, corrected
from rescompress.pruning.plan import Cut, plan
from rescompress.pruning.planner import Origin, Planner, Rules
from rescompress.pruning.rankings import Ranking
from rescompress.pruning.sharing import without_tied
from rescompress.pruning.sparsity import Sparsity, sparsify, staying
from rescompress.pruning.surgery import cut_channels, proven
from rescompress.pruning.wording import told_cut
from rescompress.training import Schedule

__all__ = ["Cut", "Group", "cut_channels", "find_groups", "plan", "proven", "prune"]

IMPORTANCE = Folder("rescompress.pruning.importance", "score")
HERE, DENSE = Target(), Sparsity()
Remains = Annotated[float | None, Field(gt=0, lt=1)]


@checked
@agreeing(agree)
def prune(
    model: nn.Module,
    ctx: Context,
    *,
    ratio: Remains = None,
    macs: Remains = None,
    params: Remains = None,
    bytes: Remains = None,
    latency: Remains = None,
    on: Target = HERE,
    unit: Literal["channels", "blocks"] = "channels",
    importance: Annotated[Choice, IMPORTANCE] = "l1",
    ranking: Ranking = "local",
    round_to: Annotated[int, Field(ge=1, le=128)] = 16,
    most: Annotated[float, Field(gt=0, lt=1)] = 0.9,
    keep: tuple[str, ...] = (),
    steps: Annotated[int, Field(ge=1, le=100)] = 1,
    between: Schedule | None = None,
    sparsity: Sparsity = DENSE,
) -> nn.Module:
    """Remove the least important channels of every dependency group, or whole residual blocks, until a target is met.

    Layers that share channels through residual adds lose the same ones (DepGraph, Fang et al. 2023, arXiv:2301.12900).
    The model's inputs and outputs stay as they are, and what is cut is proven first: the smaller network must answer as
    the whole one does with the same channels silenced. A grouped convolution and a GroupNorm lose whole groups. Where
    there are images, BatchNorm statistics are estimated anew after each cut.

    Blocks leave one by one, each time the one without which the answers to a few hundred train images change least for
    what it costs; its input then passes on as it came. Only a block whose shortcut is the identity can leave. Layers
    keep their widths, so that all of the cost that leaves is time that leaves.

    Args:
        model: a float model; it is not edited.
        ctx: where images come from, for BatchNorm statistics, for blocks and for an importance that reads gradients.
        ratio: share of the channels or blocks that is removed, before rounding; of each group's channels under the
            local ranking, of each class of isomorphic groups or of all together under the others. 0.3 where no target
            is given.
        macs: share of the multiply-accumulates that may remain.
        params: share of the parameters that may remain.
        bytes: share of the weights' bytes that may remain.
        latency: share of the latency that may remain, predicted layer by layer and checked on the whole model.
        on: where the model will run, for a latency.
        unit: what leaves. Channels make layers thinner, blocks the network shorter.
        importance: how a channel's worth is judged; larger is kept.
        ranking: local takes the same ratio from every group; isomorphic the same from every class of groups that are
            built alike (arXiv:2407.04616); global takes what loses the least importance for the target.
        round_to: the channels kept are a multiple of this (the nearest, never none), as runtimes like them.
        most: largest share of its channels that one group may lose under the global and the isomorphic ranking.
        keep: layers whose outputs stay, by name or pattern, such as ``backbone.fpn.*``; so do the blocks they are in.
        steps: cuts in which the target is approached; importances are judged anew before each.
        between: how to train on the labels between two cuts; not at all by default.
        sparsity: whether and how channels are pressed towards zero before the first cut.

    Raises:
        InputRefused: no group of the model can be cut, or the importance can't judge one.
        RecipeError: there are two targets, or one that can't be met, or there are no images for what needs them.
    """
    goal = goal_of({"ratio": ratio, "macs": macs, "params": params, "bytes": bytes, "latency": latency})
    rules = Rules(ranking, round_to, most, None if latency is None else estimator(on))
    found = _cuttable(model, keep) if unit == "channels" else ()
    small, origin = _pressed(model, ctx, found, importance, rules, goal, sparsity), None
    for cut in range(1, steps + 1):
        if unit == "blocks":
            planner: Plans[Any] = DepthPlanner(small, ctx, keep, goal.kind, rules.estimator, origin)
        else:
            groups = found if cut == 1 else _cuttable(small, keep, quiet=True)
            planner = _planner(small, ctx, groups, importance, rules, goal.kind, origin)
        origin = planner.origin
        planner.check(goal)
        if cut == steps and rules.estimator is not None and not rules.estimator.modelled:
            planned = corrected(model, planner, goal, lambda both: time_models(both, on))
        else:
            planned = planner.plan(goal.after(cut, steps))
        small = training.refresh_norms(planner.cut(planned), ctx)
        if cut < steps and between is not None:
            small = training.fit(small, replace(ctx, scratch=None), schedule=between)
    return _told(model, small, ctx, rules)


def _pressed(
    model: nn.Module,
    ctx: Context,
    groups: tuple[Group, ...],
    importance: Choice,
    rules: Rules,
    goal: Goal,
    sparsity: Sparsity,
) -> nn.Module:
    """The model after sparse learning, which presses what a first plan cuts; the model itself where none is wanted."""
    if sparsity.penalty == "none":
        return model
    first = _planner(model, ctx, groups, importance, rules, goal.kind)
    return sparsify(model, ctx, groups, staying(first.plan(goal).cuts), sparsity)


def _planner(
    model: nn.Module,
    ctx: Context,
    groups: tuple[Group, ...],
    importance: Choice,
    rules: Rules,
    kind: Kind,
    origin: Origin | None = None,
) -> Planner:
    """A planner of cuts whose channels are scored by the evidence that the model gives now."""
    score, evidence = IMPORTANCE.bind(importance), evidence_for(only_item(importance)[0], model, ctx)
    return Planner(model, groups, [score(model, group, evidence) for group in groups], rules, kind, origin)


def _cuttable(model: nn.Module, keep: tuple[str, ...], quiet: bool = False) -> tuple[Group, ...]:
    """The groups of a model as it is now; it is said why others aren't among them."""
    found, refused = find_groups(model, models.spec_of(model).input_shape, keep)
    groups, tied = without_tied(model, found)
    if not quiet:
        for layer in refused:
            progress.note(f"prune: channels tied to {layer} are kept: that layer can't be cut safely.")
        for layer in tied:
            progress.note(f"prune: {layer} keeps its channels: it shares a weight with another layer.")
    return groups


def _told(model: nn.Module, small: nn.Module, ctx: Context, rules: Rules) -> nn.Module:
    """The small model; it is said what was cut, and what is to be known about it."""
    progress.note(told_cut(model, small))
    if rules.estimator is not None and rules.estimator.modelled:
        progress.note(f"prune: the latency is a model's, of {rules.estimator.name}; nothing was measured.")
    if ctx.data is None and any(isinstance(module, nn.BatchNorm2d) for module in small.modules()):
        progress.note("prune: without images BatchNorm keeps the whole network's statistics; train before you judge.")
    return small
