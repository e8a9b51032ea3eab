"""Dependency groups: which channels of which layers can only leave together."""

import gc
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.graph import clone
from rescompress.layers import PadShortcut

Side = Literal["inputs", "outputs"]


@dataclass(frozen=True)
class Member:
    """One side of one layer; ``places[c]`` are its channels that leave with the group's channel ``c``."""

    layer: str
    side: Side
    places: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """Layers that must lose the same channels together."""

    channels: int
    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        """The first layer that makes the group's channels."""
        return next(member.layer for member in self.members if member.side == "outputs")

    def filters(self, model: nn.Module) -> Iterator[Float[Tensor, "c k"]]:
        """Per convolution or linear layer that makes the group's channels: its weights, a row a channel."""
        for member in self.members:
            layer = model.get_submodule(member.layer)
            if member.side == "outputs" and isinstance(layer, (nn.Conv2d, nn.Linear)):
                order = torch.tensor([place for places in member.places for place in places])
                yield layer.weight.detach()[order].reshape(self.channels, -1)


def find_groups(model: nn.Module, input_shape: tuple[int, int, int]) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """The model's groups, found by Torch-Pruning's dependency graph (Fang et al. 2023), in a stable order.

    Returns:
        The groups that can be cut, and the names of the layers because of which others can't.
    """
    import torch_pruning

    twin = _without_shortcuts(model)
    names = {module: name for name, module in twin.named_modules()}
    groups, refused = [], []
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        found = torch_pruning.DependencyGraph().build_dependency(twin, torch.zeros(1, *input_shape), verbose=False)
        for raw in found.get_all_groups(ignored_layers=_classifiers(twin), root_module_types=[nn.Conv2d, nn.Linear]):
            members, bad = _read(found, raw, names)
            refused.extend(bad)
            if not bad:
                groups.append(Group(len(raw[0].idxs), members))
    del found
    gc.collect()  # Torch-Pruning's graphs are cyclic and hold every activation
    order = {name: place for place, name in enumerate(names.values())}
    return tuple(sorted(groups, key=lambda group: order[group.name])), tuple(dict.fromkeys(refused))


def _without_shortcuts(model: nn.Module) -> nn.Module:
    """A copy in which each padded shortcut is a convolution: like one, it ties no input to an output channel."""
    twin = clone(model).eval().cpu()
    for parameter in twin.parameters():
        parameter.requires_grad_(True)
    for name, module in list(twin.named_modules()):
        if isinstance(module, PadShortcut):
            parent, _, child = name.rpartition(".")
            stand_in = nn.Conv2d(module.in_channels, module.out_channels, 1, module.stride, bias=False)
            setattr(twin.get_submodule(parent), child, stand_in)
    return twin


def _classifiers(model: nn.Module) -> list[nn.Module]:
    """The last linear layer, whose outputs are the classes."""
    linear: list[nn.Module] = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linear[-1:]


def _read(found: Any, raw: Any, names: dict[nn.Module, str]) -> tuple[tuple[Member, ...], list[str]]:
    """Members of one of Torch-Pruning's groups, and the layers in it that can't be cut."""
    members, bad = [], []
    for item in raw:
        layer = item.dep.target.module
        name = names.get(layer)
        if name is None:
            continue  # an op without weights, such as an add
        plain = isinstance(layer, (nn.Linear, nn.BatchNorm2d)) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        if not plain:
            bad.append(name)
            continue
        side: Side = "outputs" if found.is_out_channel_pruning_fn(item.dep.handler) else "inputs"
        places: dict[int, list[int]] = {}
        for place, root in zip(item.idxs, item.root_idxs, strict=True):
            places.setdefault(root, []).append(place)
        if len(places) != len(raw[0].idxs):
            bad.append(name)
            continue
        members.append(Member(name, side, tuple(tuple(places[root]) for root in sorted(places))))
    return tuple(members), bad
