"""What a network is built of: residual blocks, strides and dependency groups, found from its graph alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from rescompress.inspection.network import Network, Op
from rescompress.pruning import find_groups
from rescompress.views import BlockKind, BlockView, GroupView, Shortcut


def strides(network: Network) -> dict[str, float]:
    """Pixels of the image between two neighbours of each value that has height and width.

    Each step's own stride is the ratio of its sides, rounded, so that a border that is cut off doesn't count.
    """
    found: dict[str, float] = {}
    for op in network.ops:
        if len(op.shape) != 3 or not prod(op.shape):
            continue
        sources = [network.named[name] for name in op.inputs if name in found]
        if not sources:
            found[op.name] = 1.0
            continue
        source = max(sources, key=lambda one: one.shape[1])
        ratio = source.shape[1] / op.shape[1]
        step = op.step if op.kind == "conv" else round(ratio) if ratio >= 1 else 1 / round(1 / ratio)
        found[op.name] = found[source.name] * step
    return found


def blocks(network: Network, stride: dict[str, float]) -> tuple[BlockView, ...]:
    """The residual blocks in order of execution.

    A block ends at an add of two values and begins at the last value that both depend on. What lies in between and in
    no block before is its own.
    """
    order = {op.name: place for place, op in enumerate(network.ops)}
    before = _ancestors(network, order)
    taken, found = 0, []
    for add in network.adds:
        sides = [before[order[name]] for name in add.inputs]
        shared = sides[0] & sides[1]
        if not shared:
            continue
        entry = shared.bit_length() - 1
        own = ~before[entry] & ~taken
        branches = [_members(network, side & own) for side in sides]
        taken |= (sides[0] | sides[1]) & own
        main, short = sorted(branches, key=_weight, reverse=True)
        if main:
            found.append(_Found(add, network.ops[entry], tuple(main), tuple(short)))
    parents = Counter(_parent(block.add) for block in found)
    return tuple(_view(network, block, stride, parents[_parent(block.add)] > 1) for block in found)


def groups(
    model: nn.Module, network: Network, input_shape: Sequence[int]
) -> tuple[tuple[GroupView, ...], tuple[str, ...]]:
    """The dependency groups, and the layers because of which others can't be cut."""
    channels, height, width = input_shape
    found, refused = find_groups(model, (channels, height, width))
    owners = {op.owner for op in network.layers}
    views = []
    for group in found:
        sides = {
            side: tuple(sorted({m.layer for m in group.members if m.side == side and m.layer in owners}))
            for side in ("outputs", "inputs")
        }
        views.append(GroupView(group.name, group.channels, group.width, sides["outputs"], sides["inputs"]))
    return tuple(views), refused


@dataclass(frozen=True, eq=False)
class _Found:
    """An add, where its block begins, and the layers on either way between, the longer one first."""

    add: Op
    entry: Op
    main: tuple[Op, ...]
    short: tuple[Op, ...]


def _ancestors(network: Network, order: dict[str, int]) -> list[int]:
    """For each step a set of steps as the bits of an integer: those that it depends on, and itself."""
    found: list[int] = []
    for place, op in enumerate(network.ops):
        bits = 1 << place
        for name in op.inputs:
            bits |= found[order[name]]
        found.append(bits)
    return found


def _members(network: Network, bits: int) -> list[Op]:
    """The layers in a set of steps, in order of execution."""
    return [op for place, op in enumerate(network.ops) if op.cost is not None and bits >> place & 1]


def _weight(branch: list[Op]) -> tuple[int, int]:
    return len(branch), sum(prod(op.kernel) for op in branch)


def _view(network: Network, block: _Found, stride: dict[str, float], ambiguous: bool) -> BlockView:
    short: Shortcut = "identity"
    if block.short:
        short = "projection" if any(op.learned for op in block.short) else "fixed"
    layers = sorted((*block.main, *block.short), key=network.ops.index)
    return BlockView(
        name=block.add.name if ambiguous else _parent(block.add),
        add=block.add.name,
        kind=_kind(network, block),
        layers=tuple(op.name for op in layers),
        shortcut=short,
        shortcut_layers=tuple(op.name for op in block.short),
        stride=stride.get(block.add.name, 1.0) / stride.get(block.entry.name, 1.0),
        output_shape=block.add.shape,
        macs=sum(op.cost.macs for op in layers if op.cost),
    )


def _parent(add: Op) -> str:
    return add.name.rpartition(".")[0] or add.name


def _kind(network: Network, block: _Found) -> BlockKind:
    """By the kernels along the longer way; a squeeze to one pixel is no step of it."""
    pixel = (1, 1)
    along = [op for op in block.main if op.kind == "conv" and (op.shape[1:] != pixel or block.add.shape[1:] == pixel)]
    kernels: list[int] = []
    for op in along:
        side = max(op.kernel, default=1)
        if kernels and network.named[op.inputs[0]].kind == "conv":
            kernels[-1] = max(kernels[-1], side)
        else:
            kernels.append(side)
    wide = [side > 1 for side in kernels]
    return "basic" if wide == [True, True] else "bottleneck" if wide == [False, True, False] else "other"
