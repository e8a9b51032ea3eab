"""From a goal to blocks that leave: each time the one that is missed least for what it costs, until the goal is met."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rescompress import data, models, processes, progress, training
from rescompress.benchmarking.layers import Estimator, shapes_of
from rescompress.context import Context
from rescompress.cost import FLOAT_BITS, layer_costs
from rescompress.errors import InputRefused, RecipeError
from rescompress.graph import clone
from rescompress.pruning.blocks import bypass, find_blocks
from rescompress.pruning.goals import Goal, Kind
from rescompress.pruning.planner import Origin

IMAGES, LEAST, PIXELS = 256, 32, 2**22
"""Train images on which blocks are judged: so many, fewer where they are large."""
BATCH = 32


@dataclass(frozen=True)
class Shorter:
    """Blocks that leave, and the share of the original cost that should stay."""

    gone: tuple[str, ...]
    share: float


class DepthPlanner:
    """Plans which blocks of one model leave.

    One after the other the block goes without which the answers change least for what it costs. BatchNorm statistics
    are estimated anew behind each, as they are after the cut, and the rest is judged again: blocks stand in for each
    other (Veit et al. 2016, arXiv:1605.06431), so that what is missed depends on what is left.

    Args:
        model: a float model.
        ctx: where train images come from.
        keep: patterns of blocks, or of layers in them, that stay.
        kind: what goals count.
        estimator: tells how long layers take, where that is a latency.
        origin: the network before any cut; None if this is it.

    Raises:
        InputRefused: no block can leave.
        RecipeError: there are no images.
    """

    def __init__(
        self,
        model: nn.Module,
        ctx: Context,
        keep: Sequence[str],
        kind: Kind,
        estimator: Estimator | None = None,
        origin: Origin | None = None,
    ) -> None:
        self._model, self._ctx = model, ctx
        self.blocks = find_blocks(model, models.spec_of(model).input_shape, keep)
        if not self.blocks:
            raise InputRefused("No block of this model can leave whole.", "Cut channels instead: unit: channels.")
        self._costs, self._now = costs_of(model, self.blocks, kind, estimator)
        self.origin = origin or Origin({}, self._now)
        self._path: list[str] = []
        self._left = clone(model)

    def check(self, goal: Goal) -> None:
        """Refuse a goal that is missed with all blocks gone, before any is judged.

        Raises:
            RecipeError: it is.
        """
        least = self._now - sum(self._costs.values())
        if least > goal.remains * self.origin.cost * (1 + 1e-9):
            raise RecipeError(
                f"{goal.kind} {goal.share:g} can't be met: without any block it has {least / self.origin.cost:.2g}.",
                f"Raise {goal.kind}, or cut channels behind it.",
            )

    def plan(self, goal: Goal) -> Shorter:
        """The fewest blocks, in the order of the search, without which the goal is met.

        Raises:
            RecipeError: it can't be met.
        """
        self.check(goal)
        budget, cost, gone = goal.remains * self.origin.cost * (1 + 1e-9), self._now, 0
        while cost > budget:
            if gone == len(self._path):
                self._step()
            cost -= self._costs[self._path[gone]]
            gone += 1
        return Shorter(tuple(self._path[:gone]), cost / self.origin.cost)

    def fastest(self) -> Shorter:
        """All blocks gone."""
        return Shorter(self.blocks, (self._now - sum(self._costs.values())) / self.origin.cost)

    def cut(self, planned: Shorter) -> nn.Module:
        """The model without the blocks that a plan takes out."""
        return bypass(self._model, planned.gone)

    def _step(self) -> None:
        """Find the next block to leave."""
        ready = [name for name in self.blocks if name not in self._path]
        now = self._missed(self._left)
        doing = f"judge blocks ({len(self._path)} gone)"
        missed = {name: self._missed(bypass(self._left, [name])) - now for name in progress.track(ready, doing)}
        gone = min(ready, key=lambda name: missed[name] / self._costs[name])
        self._path.append(gone)
        self._left = training.refresh_norms(bypass(self._left, [gone]), self._ctx)

    def _missed(self, model: nn.Module) -> float:
        """How far a model's answers are from the whole one's: KL divergence, or the relative square of maps."""
        answers = models.predict(model.to(self._ctx.device), self._images)
        if models.spec_of(model).output == "logits":
            wanted, found = (F.log_softmax(each, 1) for each in (self._answers, answers))
            distance = F.kl_div(found, wanted, reduction="batchmean", log_target=True)
        else:
            distance = (answers - self._answers).square().sum() / self._answers.square().sum()
        return float(processes.told_tensor(distance))

    @cached_property
    def _images(self) -> list[Float[Tensor, "b 3 h w"]]:
        split, spec = self._ctx.images("Judging blocks").train, models.spec_of(self._model)
        count = min(IMAGES, max(LEAST, PIXELS // spec.preprocessing.crop**2))
        chosen = torch.randperm(len(split), generator=self._ctx.generator("blocks"))[:count]
        return [data.normalize(split.read(part.tolist()), spec.preprocessing) for part in torch.split(chosen, BATCH)]

    @cached_property
    def _answers(self) -> Float[Tensor, "n k"]:
        return models.predict(self._model, self._images)


def costs_of(
    model: nn.Module, blocks: Sequence[str], kind: Kind, estimator: Estimator | None
) -> tuple[Mapping[str, float], float]:
    """What leaves with each block, and what the whole model costs, in the goal's unit."""
    if kind == "ratio":
        return dict.fromkeys(blocks, 1.0), float(len(blocks))
    if kind in ("params", "bytes"):
        sizes = {name: _numbers(model.get_submodule(name), kind) for name in blocks}
        return sizes, _numbers(model, kind)
    if kind == "macs":
        layers = {layer.layer: float(layer.macs) for layer in layer_costs(model)}
    else:
        assert estimator is not None
        shapes = shapes_of(model)
        estimator.prepare(dict.fromkeys(shapes.values()))
        layers = {name: estimator.seconds(shape) for name, shape in shapes.items()}
    inside = {name: sum(cost for layer, cost in layers.items() if layer.startswith(f"{name}.")) for name in blocks}
    return inside, sum(layers.values())


def _numbers(module: nn.Module, kind: Kind) -> float:
    """Parameters, or bytes of these and of BatchNorm's statistics."""
    params = sum(p.numel() for p in module.parameters())
    if kind == "params":
        return float(params)
    return (params + sum(b.numel() for name, b in module.named_buffers() if "running_" in name)) * FLOAT_BITS / 8
