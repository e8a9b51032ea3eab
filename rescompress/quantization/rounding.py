"""AdaRound (Nagel et al. 2020, arXiv:2004.10568): learn for each weight whether it is rounded up or down."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from torch import Tensor, fx

from rescompress import fakequant, graph, progress
from rescompress.fakequant import FakeQuantize, quantizer_behind
from rescompress.quantization.blocks import Part, Unit, missing, parts

GAMMA, ZETA = -0.1, 1.1
"""The sigmoid is stretched to these ends and cut at 0 and 1, so that 0 and 1 are reached."""
BETA_FIRST, BETA_LAST = 20.0, 2.0
ON_GRID = 1e-4
"""Steps by which single precision may miss a grid point."""
HELD_OUT = 8
"""One batch in so many judges the outcome and isn't learned from."""
LARGEST_CACHE = 2**30
"""Bytes that the inputs and targets of one part may take; beyond, fewer images are used."""


@dataclass(frozen=True)
class AdaRound:
    """How the rounding of weights is learned.

    Attributes:
        steps: gradient steps for each part of the network.
        images: how many are shown; an eighth of them judges the outcome.
        batch: images per step.
        lr: learning rate of Adam.
        regularization: weight of the term that drives each rounding to up or down; 1 is the reconstruction error of
            rounding to nearest.
        warmup: share of the steps before that term sets in.
        bias_lr: learning rate of the biases, in steps of what one rounding changes; 0 leaves them as they are.
        unit: what is reconstructed at a time.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    steps: Annotated[int, Field(ge=1)] = 500
    images: Annotated[int, Field(ge=16)] = 512
    batch: Annotated[int, Field(ge=1)] = 8
    lr: Annotated[float, Field(gt=0)] = 0.05
    regularization: Annotated[float, Field(gt=0)] = 3.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    bias_lr: Annotated[float, Field(ge=0)] = 0.01
    unit: Unit = "block"


DEFAULT = AdaRound()


def adaround(
    traced: fx.GraphModule,
    images: Iterable[Float[Tensor, "_ 3 h w"]],
    options: AdaRound = DEFAULT,
    generator: torch.Generator | None = None,
) -> tuple[str, ...]:
    """Learn the rounding of all quantized weights, in place, part by part in order of execution.

    Each part gets its inputs from the quantized network before it and its targets from the float network. Weights come
    out as values ``s q`` on the grid, so that rounding them to nearest gives back the learned integers. A part that
    isn't better than with rounding to nearest on images held out is left as it was.

    Args:
        traced: a quantized model whose scales are set; its weights are the float ones.
        images: normalized images.
        options: how long and how hard.
        generator: draws the order of the batches.

    Returns:
        What a report should say, a sentence each.

    Source:
        Nagel et al. 2020, arXiv:2004.10568; in blocks as Li et al. 2021, arXiv:2102.05426.
    """
    generator = generator or torch.Generator().manual_seed(0)
    found = parts(traced, options.unit)
    batches, notes = _batches(images, options, found)
    originals = {
        node: graph.tensor_of(traced, node).detach().clone() for node in traced.graph.nodes if node.op == "get_attr"
    }
    exact = _Frontier(traced, batches, found, originals)
    rounded = _Frontier(traced, batches, found, {})
    gains = list[tuple[str, float]]()
    for part in progress.track(found, "adaround"):
        with fakequant.passing(traced):
            targets = exact.at(part.exit)
        learned = _Reconstruction(traced, part, rounded.at(part.entry), targets, options)
        gains.append((part.name, learned.learn(generator)))
    return (*notes, *told("adaround", "parts", gains))


def told(way: str, units: str, gains: Sequence[tuple[str, float]]) -> list[str]:
    """What a report should say of the names and of the errors as shares of those of rounding to nearest."""
    better = [gain for _, gain in gains if gain < 1]
    kept = [name for name, gain in gains if gain >= 1]
    notes = []
    if better:
        share = 100 * (1 - sum(better) / len(better))
        notes.append(f"{way}: {len(better)} of {len(gains)} {units}, error {share:.0f} % below nearest rounding.")
    if kept:
        notes.append(f"{way}: nearest rounding was no worse in {', '.join(kept)}, and stays there.")
    return notes


def _batches(
    images: Iterable[Float[Tensor, "_ 3 h w"]], options: AdaRound, found: list[Part]
) -> tuple[list[Float[Tensor, "_ 3 h w"]], list[str]]:
    """The images in batches, no more of them than fit beside each other in memory."""
    taken: list[Tensor] = []
    for batch in images:
        taken.append(batch)
        if sum(map(len, taken)) >= options.images:
            break
    together = torch.cat(taken)[: options.images]
    bytes_each = max(2 * 4 * (_numbers(part.entry) + _numbers(part.exit)) for part in found)
    fitting = max(2 * options.batch, LARGEST_CACHE // bytes_each)
    notes = []
    if fitting < len(together):
        notes.append(f"adaround: {fitting} images instead of {len(together)}, which is what memory holds.")
    return list(torch.split(together[:fitting], options.batch)), notes


def _numbers(node: fx.Node) -> int:
    """Numbers of a value for one image."""
    while "val" not in node.meta:
        node = node.all_input_nodes[0]
    return int(node.meta["val"].numel() // node.meta["val"].shape[0])


def _evaluate(traced: fx.GraphModule, wanted: fx.Node, known: Mapping[fx.Node, Any]) -> dict[fx.Node, Any]:
    """All values that had to be computed for a wanted one, and those that were known."""
    values = dict(known)
    for node in missing(wanted, known):
        if node.op == "get_attr":
            values[node] = graph.tensor_of(traced, node)
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        run = traced.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        values[node] = run(*args, **kwargs)  # type: ignore[operator]
    return values


class _Frontier:
    """The values of a network as far as they are computed; those that nothing reads any more are dropped."""

    def __init__(
        self, traced: fx.GraphModule, batches: list[Tensor], found: list[Part], constants: dict[fx.Node, Tensor]
    ) -> None:
        self._traced, self._constants = traced, constants
        source = next(node for node in traced.graph.nodes if node.op == "placeholder")
        self._values: list[dict[fx.Node, Any]] = [{source: batch} for batch in batches]
        self._ahead = {node for part in found for node in missing(part.exit, {})} - {source}

    @torch.no_grad()
    def at(self, wanted: fx.Node) -> list[Tensor]:
        """A value, batch by batch."""
        found = []
        computed = set(missing(wanted, self._values[0])) if self._values else set()
        self._ahead -= computed
        for place, known in enumerate(self._values):
            values = _evaluate(self._traced, wanted, {**self._constants, **known})
            found.append(values[wanted])
            self._values[place] = {node: value for node, value in values.items() if self._is_read(node)}
        return found

    def _is_read(self, node: fx.Node) -> bool:
        return node.op != "get_attr" and any(user in self._ahead for user in node.users)


class _Rounding:
    """The learned rounding of one layer: ``s clamp(floor(w / s) + h(V), q_min, q_max)``."""

    def __init__(self, traced: fx.GraphModule, layer: fx.Node, reach: float, learn_bias: bool) -> None:
        self.node = cast(fx.Node, layer.args[1])
        quantizer = cast(FakeQuantize, quantizer_behind(traced, self.node))
        self.weight = graph.tensor_of(traced, cast(fx.Node, self.node.args[0]))
        column = (-1, *[1] * (self.weight.dim() - 1))
        self.scale = quantizer.scale.view(column)
        low, high = quantizer.site.limits
        zero = quantizer.zero_point.view(column)
        self.low, self.high = low - zero, high - zero
        steps = self.weight.detach() / self.scale
        # A weight that lies on the grid, such as a pruned one or a shortcut's 0 and 1, has nowhere else to go.
        self.free = (steps - steps.round()).abs() > ON_GRID
        self.floor = torch.where(self.free, steps.floor(), steps.round())
        share = ((steps - self.floor).clamp(0, 1) - GAMMA) / (ZETA - GAMMA)
        self.v = torch.logit(share).requires_grad_()
        bias = layer.args[2] if len(layer.args) > 2 else None
        self.bias_node = bias if isinstance(bias, fx.Node) and learn_bias else None
        if self.bias_node is not None:
            self.bias = graph.tensor_of(traced, self.bias_node)
            self.unit = quantizer.scale.detach() * reach
            self.shift = torch.zeros_like(self.bias, requires_grad=True)

    def h(self) -> Float[Tensor, "..."]:
        """The rectified sigmoid: 0 rounds down, 1 up."""
        return (torch.sigmoid(self.v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def values(self, up: Float[Tensor, "..."] | Bool[Tensor, "..."]) -> dict[fx.Node, Tensor]:
        """What the layer reads, given how far each weight is rounded up."""
        weight = self.scale * torch.maximum(torch.minimum(self.floor + up * self.free, self.high), self.low)
        if self.bias_node is None:
            return {self.node: weight}
        return {self.node: weight, self.bias_node: self.bias.detach() + self.unit * self.shift}


class _Reconstruction:
    """One part of the network that learns to answer as the float network does."""

    def __init__(
        self, traced: fx.GraphModule, part: Part, inputs: list[Tensor], targets: list[Tensor], options: AdaRound
    ) -> None:
        self._traced, self._part, self._options = traced, part, options
        held_out = max(1, len(inputs) // HELD_OUT) if len(inputs) > 1 else 0
        self._inputs, self._targets = inputs, targets
        self._judges = range(len(inputs) - held_out, len(inputs)) if held_out else range(1)
        self._shown = len(inputs) - held_out
        reach = float(inputs[0].square().mean().sqrt())
        self._roundings = [_Rounding(traced, layer, reach, options.bias_lr > 0) for layer in part.layers]

    @torch.enable_grad()
    def learn(self, generator: torch.Generator) -> float:
        """Learn and write the weights; give the error on held-out images as a share of that of nearest rounding."""
        options, before = self._options, self._error(self._judges, {})
        size = self._error(range(self._shown), {}) or 1.0
        groups = [{"params": [rounding.v for rounding in self._roundings], "lr": options.lr}]
        biases = [rounding.shift for rounding in self._roundings if rounding.bias_node is not None]
        groups += [{"params": biases, "lr": options.bias_lr}] if biases else []
        optimizer = torch.optim.Adam(groups)
        order: list[int] = []
        for step in range(options.steps):
            order = order or torch.randperm(self._shown, generator=generator).tolist()
            place = order.pop()
            optimizer.zero_grad()
            ups = [rounding.h() for rounding in self._roundings]
            known = self._known(ups)
            loss = self._distance(place, known) / size
            beta = _beta(step / options.steps, options.warmup)
            if beta is not None:
                doubt = sum(((1 - (2 * h - 1).abs().pow(beta)).sum() for h in ups), torch.zeros(()))
                loss = loss + options.regularization * doubt / sum(h.numel() for h in ups)
            torch.autograd.backward(loss)
            optimizer.step()
        return self._write(before)

    @torch.no_grad()
    def _write(self, before: float) -> float:
        known = self._known([rounding.h() >= 0.5 for rounding in self._roundings])
        after = self._error(self._judges, known)
        if after >= before:
            return 1.0
        for rounding in self._roundings:
            rounding.weight.data.copy_(known[rounding.node])
            if rounding.bias_node is not None:
                rounding.bias.data.copy_(known[rounding.bias_node])
        return after / before

    def _known(self, ups: list[Tensor]) -> dict[fx.Node, Tensor]:
        pairs = zip(self._roundings, ups, strict=True)
        return {node: value for rounding, up in pairs for node, value in rounding.values(up).items()}

    def _distance(self, place: int, known: dict[fx.Node, Tensor]) -> Float[Tensor, ""]:
        """Mean squared error of the part's output on one batch."""
        found = _evaluate(self._traced, self._part.exit, {self._part.entry: self._inputs[place], **known})
        return F.mse_loss(found[self._part.exit], self._targets[place])

    @torch.no_grad()
    def _error(self, places: range, known: dict[fx.Node, Tensor]) -> float:
        """Mean squared error over batches, to the nearest grid point where the rounding isn't known."""
        return float(torch.stack([self._distance(place, known) for place in places]).mean())


def _beta(done: float, warmup: float) -> float | None:
    """The exponent of the regularization falls along half a cosine; None while it is off."""
    if done < warmup:
        return None
    rest = (done - warmup) / (1 - warmup)
    return BETA_LAST + 0.5 * (BETA_FIRST - BETA_LAST) * (1 + float(torch.cos(torch.tensor(rest * torch.pi))))
