"""What a network costs at other widths: a sum of terms, one per layer, each a function of the layer's two widths."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from rescompress.graph import run_blank
from rescompress.layers import PadShortcut, width_of
from rescompress.pruning.groups import Group, Side

Counted = Literal["macs", "params", "bytes", "channels"]
Price = Callable[[Any, Any], Any]
"""From a layer's input and output channels, numbers or arrays, to what it costs."""
MAKERS = (nn.Conv2d, nn.Linear, PadShortcut)
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Width:
    """Channels on one side of a layer: ``fixed + sum of places * kept[group]``.

    Attributes:
        fixed: channels that belong to no group.
        parts: per group that reaches this side, its index and the places that each of its channels has here.
    """

    fixed: int
    parts: tuple[tuple[int, int], ...] = ()

    def at(self, kept: Sequence[Any]) -> Any:
        """The width where each group keeps so many channels; arrays among them give arrays."""
        return self.fixed + sum(places * kept[group] for group, places in self.parts)


@dataclass(frozen=True)
class Term:
    """One layer's cost as a function of its widths."""

    inputs: Width
    outputs: Width
    price: Price

    @cached_property
    def groups(self) -> frozenset[int]:
        """The groups on which it depends."""
        return frozenset(group for side in (self.inputs, self.outputs) for group, _ in side.parts)

    def at(self, kept: Sequence[Any]) -> Any:
        """The cost where each group keeps so many channels."""
        return self.price(self.inputs.at(kept), self.outputs.at(kept))


class Costs:
    """The cost of a whole network as a function of how many channels each group keeps.

    Args:
        terms: of all layers that depend on a group, and any others.
        constant: what is paid at any width.
    """

    def __init__(self, terms: Sequence[Term], constant: float = 0.0) -> None:
        self._terms = tuple(term for term in terms if term.groups)
        self._constant = constant + sum(float(term.at(())) for term in terms if not term.groups)
        self._touching: dict[int, list[Term]] = {}
        for term in self._terms:
            for group in term.groups:
                self._touching.setdefault(group, []).append(term)
        self._near = {
            group: tuple(sorted(frozenset().union(*(term.groups for term in terms)) - {group}))
            for group, terms in self._touching.items()
        }

    def near(self, group: int) -> tuple[int, ...]:
        """The other groups that share a layer with one, in ascending order."""
        return self._near.get(group, ())

    def total(self, kept: Sequence[int]) -> float:
        """The cost where each group keeps so many channels."""
        return self._constant + sum(float(term.at(kept)) for term in self._terms)

    def along(self, kept: Sequence[int], group: int, widths: Int[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """The cost of those layers that one group touches, for several widths of it; the other groups stay."""
        varied: list[Any] = list(kept)
        varied[group] = widths
        total = np.zeros(widths.shape)
        for term in self._touching.get(group, []):
            total = total + term.at(varied)
        return total


def sides(model: nn.Module, groups: Sequence[Group]) -> Callable[[str], tuple[Width, Width]]:
    """A function from a layer's name to the widths of its two sides."""
    parts: dict[tuple[str, Side], list[tuple[int, int, int]]] = {}
    for index, group in enumerate(groups):
        for member in group.members:
            # Should channels have unlike numbers of places, the surplus counts as fixed: never told too cheap.
            places = min(len(each) for each in member.places)
            parts.setdefault((member.layer, member.side), []).append((index, places, group.channels))

    def width(name: str, side: Side) -> Width:
        found = parts.get((name, side), [])
        cut = sum(places * channels for _, places, channels in found)
        return Width(width_of(model.get_submodule(name), side) - cut, tuple((index, p) for index, p, _ in found))

    return lambda name: (width(name, "inputs"), width(name, "outputs"))


def counted(model: nn.Module, groups: Sequence[Group], kind: Counted, pixels: Mapping[str, int] | None = None) -> Costs:
    """MACs for one image, parameters, bytes of the weights in single precision, or channels of all groups.

    Equal to ``cost.total_cost`` of the model cut to those widths.

    Args:
        model: a float model.
        groups: those that may be cut.
        kind: what is counted.
        pixels: as ``pixels_of`` gives them; for MACs only.
    """
    if kind == "channels":
        terms = [Term(Width(0), Width(0, ((g, each.width),)), lambda i, o: o) for g, each in enumerate(groups)]
        return Costs(terms)
    widths, layers = sides(model, groups), dict(model.named_modules())
    prices = {name: _price(layer, kind, (pixels or {}).get(name, 0)) for name, layer in layers.items()}
    terms = [Term(*widths(name), price) for name, price in prices.items() if price is not None]
    if kind == "macs":
        return Costs(terms)
    whole = sum(p.numel() for p in model.parameters())
    if kind == "bytes":
        whole += sum(b.numel() for name, b in model.named_buffers() if "running_" in name)
        whole += sum(layer.weight.numel() for layer in layers.values() if isinstance(layer, PadShortcut))
        whole *= FLOAT_BYTES
    full = [group.channels for group in groups]
    return Costs(terms, whole - sum(float(term.at(full)) for term in terms))


def pixels_of(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """Places at which each convolution or linear layer computes all its outputs, summed over its runs for one image."""
    found: dict[str, int] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            places = output.shape[1:-1] if isinstance(layer, nn.Linear) else output.shape[2:]
            found[name] = found.get(name, 0) + prod(places)

        return hook

    hooks = [
        layer.register_forward_hook(watch(name)) for name, layer in model.named_modules() if isinstance(layer, MAKERS)
    ]
    run_blank(model, input_shape, hooks)
    return found


def _price(layer: nn.Module, kind: Counted, pixels: int) -> Price | None:
    """What a layer costs at other widths; None of a layer without channels."""
    if isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm)):
        numbers = 2 * (layer.weight is not None)
        if kind == "bytes":
            numbers += 2 * (getattr(layer, "running_mean", None) is not None)
            numbers *= FLOAT_BYTES
        return None if kind == "macs" else lambda i, o: numbers * o
    if not isinstance(layer, MAKERS):
        return None
    grouped, per = getattr(layer, "groups", 1) > 1, prod(layer.weight.shape[2:])
    inner = layer.weight.shape[1]

    def weights(i: Any, o: Any) -> Any:
        return o * per * (inner if grouped else i)

    fixed, bias = isinstance(layer, PadShortcut), getattr(layer, "bias", None) is not None
    if kind == "macs":
        return lambda i, o: pixels * weights(i, o)
    if kind == "params":
        return lambda i, o: 0 * o if fixed else weights(i, o) + bias * o
    return lambda i, o: FLOAT_BYTES * (weights(i, o) + bias * o)
