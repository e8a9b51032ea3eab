"""What the channels of each value hold: extremes and moments over the calibration images, in constant memory."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, fx

from rescompress import fakequant, graph


@dataclass(frozen=True)
class Channels:
    """Statistics of each channel of one value, over images and pixels, in double precision.

    Attributes:
        low: smallest value.
        high: largest value.
        mean: ``E[x]``.
        square: ``E[x²]``.
        count: values that were seen in each channel.
    """

    low: Float[Tensor, " c"]
    high: Float[Tensor, " c"]
    mean: Float[Tensor, " c"]
    square: Float[Tensor, " c"]
    count: int

    @property
    def reach(self) -> Float[Tensor, " c"]:
        """Largest magnitude."""
        return torch.maximum(-self.low, self.high).clamp(min=0)

    @property
    def deviation(self) -> Float[Tensor, " c"]:
        """``sqrt(E[x²] - E[x]²)``."""
        return (self.square - self.mean.square()).clamp(min=0).sqrt()

    def reaching(self, extremes: Float[Tensor, "c 2"]) -> "Channels":
        """With smallest and largest values that other images gave."""
        low, high = extremes.double().unbind(1)
        return replace(self, low=torch.minimum(self.low, low), high=torch.maximum(self.high, high))

    def joined(self, other: "Channels") -> "Channels":
        """Of these values and others."""
        total = self.count + other.count
        share = other.count / total
        return Channels(
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
            self.mean.lerp(other.mean, share),
            self.square.lerp(other.square, share),
            total,
        )


def channels_of(x: Float[Tensor, "n c ..."]) -> Channels:
    """The statistics of one tensor, channels along axis 1."""
    rows = x.detach().transpose(0, 1).flatten(1)
    low, high = rows.aminmax(dim=1)
    square = rows.square().mean(1, dtype=torch.float64)
    return Channels(low.double(), high.double(), rows.mean(1, dtype=torch.float64), square, rows.shape[1])


def has_channels(node: fx.Node) -> bool:
    """Whether a step makes maps ``[n, c, h, w]`` or rows ``[n, c]``."""
    value = node.meta.get("val")
    return node.op in ("call_function", "placeholder") and isinstance(value, Tensor) and value.dim() in (2, 4)


@torch.no_grad()
def watch_channels(traced: fx.GraphModule, batches: Iterable[Float[Tensor, "_ 3 h w"]]) -> dict[str, Channels]:
    """The float network's statistics of every value, by stable name.

    Args:
        traced: a captured graph, with or without fake-quants; they are passed by.
        batches: normalized images.
    """
    found: dict[str, Channels] = {}

    def note(node: fx.Node, x: object) -> None:
        if has_channels(node) and isinstance(x, Tensor):
            name, new = graph.name_of(node), channels_of(x)
            found[name] = found[name].joined(new) if name in found else new

    with fakequant.passing(traced):
        for images in batches:
            graph.watch(traced, images, note)
    return found
