"""Dependency groups: which channels of which layers can only leave together."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.errors import InputRefused
from rescompress.graph import clone
from rescompress.layers import PadShortcut, width_of
from rescompress.pruning.guard import GaveUpError, bounded

Side = Literal["inputs", "outputs"]


@dataclass(frozen=True)
class Member:
    """One side of one layer; ``places[c]`` are its channels that leave with the group's channel ``c``."""

    layer: str
    side: Side
    places: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """Layers that must lose the same channels together.

    Attributes:
        channels: how many can leave one by one; where a grouped convolution or a GroupNorm takes part, such a channel
            is a whole group of it.
        members: the sides of layers that are tied.
        width: channels that leave at once.
    """

    channels: int
    members: tuple[Member, ...]
    width: int = 1

    @property
    def name(self) -> str:
        """The first layer that makes the group's channels."""
        return next(member.layer for member in self.members if member.side == "outputs")


class _Watched(nn.Module):
    """A twin of a model in which every dependency is plain, with a probe on each output.

    Padded shortcuts become convolutions: like these, they tie no input to an output channel. Grouped convolutions
    become depthwise ones, which tie each to its own; that whole groups must leave is added later. A group that reaches
    a probe is made of the model's outputs.
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.twin = clone(model).eval().cpu()
        for name, module in list(self.twin.named_modules()):
            stand_in = _stand_in(module)
            if stand_in is not None:
                parent, _, child = name.rpartition(".")
                setattr(self.twin.get_submodule(parent), child, stand_in)
        for parameter in self.twin.parameters():
            parameter.requires_grad_(True)
        with torch.no_grad():
            outputs = _listed(self.twin(torch.zeros(1, *input_shape)))
        self.probes = nn.ModuleList(_probe(output) for output in outputs)

    def forward(self, x: Float[Tensor, "1 c h w"]) -> tuple[Tensor, ...]:
        """What the probes see."""
        outputs = _listed(self.twin(x))
        return tuple(probe(output) for probe, output in zip(self.probes, outputs, strict=True))


def find_groups(
    model: nn.Module, input_shape: tuple[int, int, int], keep: Sequence[str] = ()
) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """The model's groups, found by Torch-Pruning's dependency graph (Fang et al. 2023), in a stable order.

    Args:
        model: any module that maps images to a tensor or several.
        input_shape: shape of one image.
        keep: patterns of layers whose outputs stay as they are.

    Returns:
        The groups that can be cut, and the names of the layers because of which others can't.

    Raises:
        InputRefused: the network is of a kind that Torch-Pruning can't follow.
    """
    import torch_pruning

    watched = _Watched(model, input_shape)
    names = {module: name for name, module in watched.twin.named_modules()}
    probes = set(watched.probes)
    groups, refused = [], []
    found = torch_pruning.DependencyGraph()
    for raw in _raw_groups(found, watched, input_shape):
        if probes & {item.dep.target.module for item in raw}:
            continue
        members, bad = _read(found, raw, names)
        bad += [member.layer for member in members if _beyond(model, member)]
        if any(fnmatch(member.layer, each) for member in members for each in keep if member.side == "outputs"):
            continue
        group = None if bad else _in_units(model, members)
        if group is None:
            refused.extend(bad or [member.layer for member in members if _unit(model, member)])
        else:
            groups.append(group)
    for node in found.module2node.values():
        vars(node).clear()  # the graph is cyclic and holds every activation; a collection of all garbage takes longer
    order = {name: place for place, name in enumerate(names.values())}
    return tuple(sorted(groups, key=lambda group: order[group.name])), tuple(dict.fromkeys(refused))


def _raw_groups(found: Any, watched: _Watched, input_shape: tuple[int, int, int]) -> list[Any]:
    """Torch-Pruning's own groups, those that reach a probe among them."""
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            with bounded():
                found.build_dependency(watched, torch.zeros(1, *input_shape), verbose=False)
                kinds = [nn.Conv2d, nn.Linear]
                return list(found.get_all_groups(ignored_layers=list(watched.probes), root_module_types=kinds))
        except GaveUpError:
            raise InputRefused(
                "Which channels depend on each other can't be found in two minutes and 8 GiB.",
                "This architecture can't be pruned; leave prune out of the recipe.",
            ) from None
        except Exception as error:  # it meets what it doesn't know with whatever Python raises
            raise InputRefused(
                f"Which channels depend on each other can't be found: {type(error).__name__} in Torch-Pruning.",
                "This architecture can't be pruned; leave prune out of the recipe.",
            ) from None


def _stand_in(module: nn.Module) -> nn.Module | None:
    if isinstance(module, PadShortcut):
        return nn.Conv2d(module.in_channels, module.out_channels, 1, module.stride, bias=False)
    if isinstance(module, nn.Conv2d) and module.groups > 1 and module.in_channels == module.out_channels:
        c, shape = module.in_channels, (module.kernel_size, module.stride, module.padding, module.dilation)
        return nn.Conv2d(c, c, *shape, groups=c, bias=module.bias is not None)  # type: ignore[arg-type]
    return None


def _listed(output: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


def _probe(output: Tensor) -> nn.Module:
    return nn.Linear(output.shape[1], 1) if output.dim() == 2 else nn.Conv2d(output.shape[1], 1, 1)


def _read(found: Any, raw: Any, names: dict[nn.Module, str]) -> tuple[tuple[Member, ...], list[str]]:
    """Members of one of Torch-Pruning's groups, and the layers in it that can't be cut."""
    members, bad = [], []
    for item in raw:
        layer = item.dep.target.module
        name = names.get(layer)
        if name is None:
            continue  # an op without weights, such as an add
        grouped = isinstance(layer, nn.Conv2d) and layer.groups not in (1, layer.out_channels)
        if grouped or not isinstance(layer, (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.GroupNorm)):
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


def _beyond(model: nn.Module, member: Member) -> bool:
    """Whether a member has places that its layer lacks, as behind padding that hides in a function."""
    places = [place for places in member.places for place in places]
    return max(places) >= width_of(model.get_submodule(member.layer), member.side) or len(set(places)) != len(places)


def _in_units(model: nn.Module, members: tuple[Member, ...]) -> Group | None:
    """The group in units that can leave alone; None where the layers' own groups don't match each other."""
    size = len(members[0].places)
    unit_of = list(range(size))
    for member in members:
        unit = _unit(model, member)
        first: dict[int, int] = {}
        for channel, places in enumerate(member.places if unit else ()):
            joined = {unit_of[channel], *(unit_of[first.setdefault(place // unit, channel)] for place in places)}
            unit_of = [min(joined) if each in joined else each for each in unit_of]
    units: dict[int, list[int]] = {}
    for channel, unit in enumerate(unit_of):
        units.setdefault(unit, []).append(channel)
    if len({len(channels) for channels in units.values()}) != 1:
        return None
    merged = [
        Member(m.layer, m.side, tuple(tuple(p for c in channels for p in m.places[c]) for channels in units.values()))
        for m in members
    ]
    return Group(len(units), tuple(merged), size // len(units))


def _unit(model: nn.Module, member: Member) -> int:
    """Channels of each of a layer's own groups; 0 where it has none."""
    layer = model.get_submodule(member.layer)
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return layer.out_channels // layer.groups
    return layer.num_channels // layer.num_groups if isinstance(layer, nn.GroupNorm) else 0
