"""What a few images show: how far activations reach, and what each layer in INT8 alone does to the output."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx

from rescompress import fakequant, graph, metrics, models, progress
from rescompress.inspection.network import LAYERS, Network, step_of
from rescompress.inspection.weights import APART
from rescompress.sites import LIMITS, WEIGHT_LIMITS
from rescompress.views import BlockView, Finding

COMMON = 0.999
"""The share of a value's magnitudes that an outlier stands out from."""

FRAGILE_DB = 20.0
"""What the whole network in INT8 must keep to be verified: a layer that alone goes below it leaves nothing."""


@dataclass(frozen=True)
class Reach:
    """How far one value goes: its largest magnitude, and the one that 99.9 % of them stay below."""

    largest: float
    common: float


@dataclass
class Measured:
    """What the images showed.

    Attributes:
        reach: of each value that a layer or an add reads.
        broken: the first value that was NaN or infinite.
        sqnr_db: of the output, when this layer alone has its weights and its input in INT8.
    """

    reach: dict[str, Reach] = field(default_factory=dict)
    broken: str | None = None
    sqnr_db: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def measure(traced: fx.GraphModule, images: Float[Tensor, "n 3 h w"]) -> Measured:
    """Run the network in float; then, for each layer, what follows it with that layer in INT8 by minimum and maximum.

    Args:
        traced: a captured graph; fake-quants in it are passed by.
        images: a batch of normalized images.
    """
    found = Measured()
    output = models.in_rows(_Watcher(traced, found).run(images))
    if found.broken is not None:
        return found
    nodes = list(traced.graph.nodes)
    walk, done = _Runner(traced), 0
    walk.env = {node: images for node in nodes if node.op == "placeholder"}
    layers = [place for place, node in enumerate(nodes) if graph.op_of(node) in LAYERS]
    for place in progress.track(layers, "one layer at a time in INT8"):
        for node in nodes[done:place]:
            walk.step(node)
        done = place
        before = {node: walk.env.get(node) for node in nodes[:place]}
        changed = models.in_rows(_Rounding(traced, nodes[place]).run(images, initial_env=before))
        found.sqnr_db[graph.name_of(nodes[place])] = metrics.sqnr_db(output.numpy(), changed.numpy())
    return found


def outliers(network: Network, measured: Measured) -> Iterator[Finding]:
    """Values of which a few reach so far that INT8 would have few steps left for the others."""
    for name, reach in measured.reach.items():
        if reach.largest > APART * reach.common > 0:
            yield Finding(
                "activation outliers",
                "warning",
                tuple(op.name for op in network.readers[name] if op.cost is not None) or (name,),
                f"{name} reaches {reach.largest:.3g}, but {COMMON:.1%} of its values stay within {reach.common:.3g}.",
                "Let an observer clip them, such as percentile, or keep the layers that read them in float.",
            )


def fragile_layers(measured: Measured) -> Iterator[Finding]:
    """Layers that cost too much of the output when they alone are in INT8."""
    for name, sqnr_db in measured.sqnr_db.items():
        if sqnr_db < FRAGILE_DB:
            yield Finding(
                "fragile layer",
                "warning",
                (name,),
                f"With {name} alone in INT8 by minimum and maximum, the output's SQNR is {sqnr_db:.1f} dB.",
                "Keep it in float, clip its input's range, or train it with fake-quants.",
            )


def unequal_branches(network: Network, measured: Measured, blocks: Sequence[BlockView]) -> Iterator[Finding]:
    """Adds whose one input is so small beside the other that a scale for the sum loses it."""
    names = {add.name: add.inputs for add in network.adds}
    for block in blocks:
        reach = [measured.reach[name].largest for name in names.get(block.add, ()) if name in measured.reach]
        if reach and max(reach) > APART * min(reach) > 0:
            yield Finding(
                "unequal branches",
                "note",
                (block.add,),
                f"{block.add} adds values of up to {max(reach):.3g} to values of up to {min(reach):.3g}.",
                "Give each input a scale of its own; one scale for both would lose the smaller.",
            )


def broken_values(measured: Measured) -> Iterator[Finding]:
    """The first value that is not a number, or infinite."""
    if measured.broken is not None:
        yield Finding(
            "NaN or infinity",
            "error",
            (measured.broken,),
            f"The output of {measured.broken} holds NaN or infinite values.",
            "Check the images and the checkpoint's weights.",
        )


class _Runner(fx.Interpreter):
    """Runs a captured graph in float."""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pass fake-quants by."""
        module = self.fetch_attr(target)
        return args[0] if isinstance(module, fakequant.FakeQuantize) else super().call_module(target, args, kwargs)

    def step(self, node: fx.Node) -> None:
        """Run one node, and forget what nothing will read any more."""
        if node not in self.env:
            self.env[node] = self.run_node(node)
        for read in self.user_to_last_uses.get(node, []):
            del self.env[read]


class _Rounding(_Runner):
    """Runs a captured graph in float, but one layer of it in INT8."""

    def __init__(self, traced: fx.GraphModule, rounded: fx.Node) -> None:
        super().__init__(traced)
        self._rounded = rounded

    def run_node(self, n: fx.Node) -> Any:
        if n is not self._rounded:
            return super().run_node(n)
        (x, weight, *rest), named = self.fetch_args_kwargs_from_env(n)
        assert callable(n.target)
        return n.target(_rounded_input(x), _rounded_weight(weight), *rest, **named)


class _Watcher(_Runner):
    """Runs a captured graph in float and notes how far the values go that layers and adds read."""

    def __init__(self, traced: fx.GraphModule, found: Measured) -> None:
        super().__init__(traced)
        self._found = found

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op != "get_attr" and "value_name" in n.meta:
            self._note(n, result)
        return result

    def _note(self, node: fx.Node, x: Float[Tensor, "..."]) -> None:
        name = step_of(node)
        if self._found.broken is None and not bool(torch.isfinite(x).all()):
            self._found.broken = name
        if any(graph.op_of(user) in (*LAYERS, "add", "call_module") for user in node.users):
            sizes = x.abs().flatten()
            rank = max(1, int(COMMON * sizes.numel()))
            self._found.reach[name] = Reach(float(sizes.max()), float(sizes.kthvalue(rank).values))


def _rounded_input(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    low, high = (float(end) for end in x.aminmax())
    low, high = min(low, 0.0), max(high, 0.0)
    q_min, q_max = LIMITS["uint8"]
    s = (high - low) / (q_max - q_min) or 1.0
    z = max(q_min, min(q_max, round(-low / s)))
    return torch.fake_quantize_per_tensor_affine(x, s, z, q_min, q_max)


def _rounded_weight(w: Float[Tensor, "o ..."]) -> Float[Tensor, "o ..."]:
    s = w.detach().abs().flatten(1).amax(1) / WEIGHT_LIMITS[1]
    s = torch.where(s > 0, s, torch.ones_like(s))
    z = torch.zeros_like(s, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(w, s, z, 0, *WEIGHT_LIMITS)
