"""What a person is told of a cut, in a line or two."""

from collections import Counter
from collections.abc import Sequence

from torch import nn

from rescompress import models
from rescompress.layers import width_of
from rescompress.pruning.groups import Group
from rescompress.pruning.terms import MAKERS, counted, pixels_of

MOST_NAMED = 3


def told_cut(before: nn.Module, after: nn.Module) -> str:
    """Blocks that left, or widths of the layers, and MACs, before and after, in one line."""
    now = dict(after.named_modules())
    makers = {name: layer for name, layer in before.named_modules() if isinstance(layer, MAKERS)}
    widths = Counter(
        (width_of(layer, "outputs"), width_of(now[name], "outputs")) for name, layer in makers.items() if name in now
    )
    changes = [f"{count} layers {old} → {new}" for (old, new), count in widths.items() if old != new]
    same = sum(count for (old, new), count in widths.items() if old == new)
    shape = models.spec_of(before).input_shape
    old_macs, new_macs = (counted(each, (), "macs", pixels_of(each, shape)).total(()) for each in (before, after))
    share, gone = new_macs / max(old_macs, 1), len(makers) - widths.total()
    told = ", ".join(changes) or "none, for the grid has no narrower width near the target"
    told = f"{_left(before, after)} leave, {gone} of {len(makers)} layers" if gone else f"widths: {told}"
    rest = f"; {same} keep theirs" if changes and same and not gone else ""
    return f"prune: {told}{rest}; {old_macs / 1e6:.2f} M → {new_macs / 1e6:.2f} M MACs ({share:.3f})."


def told_emptied(groups: Sequence[Group], wide: Sequence[int], ratio: float, steps: Sequence[int]) -> str | None:
    """Which groups a ratio would have emptied; None where there are none.

    Args:
        groups: those that are cut.
        wide: their channels before any cut.
        ratio: that is removed from each.
        steps: per group the distance of two widths on its grid.
    """
    empty = [
        group.name
        for group, channels, step in zip(groups, wide, steps, strict=True)
        if channels > step and channels * (1 - ratio) < step / 2
    ]
    if not empty:
        return None
    return f"prune: ratio {ratio:g} would leave nothing of {_listed(empty)}; one step of the grid stays there."


def _left(before: nn.Module, after: nn.Module) -> str:
    """The blocks in whose place the identity stands now."""
    places = [name for name, module in after.named_modules() if isinstance(module, nn.Identity)]
    return _listed([name for name in places if list(before.get_submodule(name).children())])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
