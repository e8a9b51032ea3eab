"""Weights that several layers hold in common: cut in one place, they would come apart."""

from collections import defaultdict
from collections.abc import Sequence

from torch import nn

from rescompress.pruning.groups import Group


def without_tied(model: nn.Module, groups: Sequence[Group]) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """The groups whose layers own their parameters, and the names of the layers because of which others stay whole.

    A layer that runs at several places is no such case: all its runs are in one group, and lose the same channels.
    """
    owners: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].append(name)
    tied = {name for names in owners.values() if len(names) > 1 for name in names}
    kept = tuple(group for group in groups if not tied & {member.layer for member in group.members})
    named = [member.layer for group in groups if group not in kept for member in group.members if member.layer in tied]
    return kept, tuple(dict.fromkeys(named))
