"""What leaves with a channel: of every parameter of a dependency group, the numbers that belong to each channel."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rescompress.pruning.groups import Group, Side


@dataclass(frozen=True)
class Slice:
    """One parameter of a group's layers, ready to be read a channel at a time.

    Attributes:
        layer: name of the layer.
        name: of the parameter in the layer.
        side: whether a channel is made (a row of a weight) or read (a column).
        order: the places of the first channel, then those of the second, and so on.
        channels: of the group.
    """

    layer: str
    name: str
    side: Side
    order: Int[Tensor, " k"]
    channels: int

    @property
    def parameter(self) -> str:
        """The parameter's name in the model."""
        return f"{self.layer}.{self.name}"

    def rows(self, tensor: Float[Tensor, "..."]) -> Float[Tensor, "c k"]:
        """A tensor of the parameter's shape, such as the parameter or its gradient: a row for each channel."""
        sided = tensor.transpose(0, 1) if self.side == "inputs" else tensor
        return sided[self.order.to(tensor.device)].reshape(self.channels, -1)

    def sums(self, tensor: Float[Tensor, "..."]) -> Float[Tensor, " c"]:
        """A tensor of the parameter's shape, summed to a number for each channel."""
        kept = 1 if self.side == "inputs" else 0
        places = tensor.movedim(kept, 0).flatten(1).sum(1) if tensor.dim() > 1 else tensor
        return places[self.order.to(tensor.device)].reshape(self.channels, -1).sum(1)


def slices(model: nn.Module, group: Group) -> tuple[Slice, ...]:
    """Every weight, bias, scale and shift that leaves with the group's channels, on the making and the reading side.

    A grouped convolution ties its inputs to its outputs and counts once, as a maker.
    """
    found = []
    for member in group.members:
        layer = model.get_submodule(member.layer)
        order = torch.tensor([place for places in member.places for place in places])
        for name, _ in layer.named_parameters(recurse=False):
            if member.side == "outputs" or name == "weight":
                found.append(Slice(member.layer, name, member.side, order, group.channels))
    return tuple(found)


def weights(model: nn.Module, group: Group) -> Iterator[Float[Tensor, "c k"]]:
    """Per convolution or linear layer that makes or reads the group's channels: its weights, a row a channel."""
    for each in slices(model, group):
        tensor = model.get_parameter(each.parameter).detach()
        if tensor.dim() > 1:
            yield each.rows(tensor)


def balanced(norms: Iterable[Float[Tensor, " c"]]) -> Float[Tensor, " c"]:
    """Mean over layers, each first divided by its own mean: no layer outweighs another, and the result's mean is 1.

    Scores of several groups can so be compared, as where DepGraph divides by the group's mean (arXiv:2301.12900).
    """
    return torch.stack([norm / norm.mean().clamp_min(torch.finfo(norm.dtype).tiny) for norm in norms]).mean(0)
