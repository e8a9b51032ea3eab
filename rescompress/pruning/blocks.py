"""Whole residual blocks: which of them can leave, so that what runs through a network passes their place unchanged."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from rescompress.graph import clone, evaluating, run_blank


def find_blocks(model: nn.Module, input_shape: tuple[int, int, int], keep: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the residual blocks whose shortcut is the identity, in order of execution.

    Found by doing, not by name: a module is such a block if it hands its input on, to the bit, once all its weights are
    zero. A block that widens or strides doesn't, nor does one whose shortcut is a convolution. Of nested ones the
    innermost count.

    Args:
        model: any module that maps images to a tensor or several.
        input_shape: shape of one image.
        keep: patterns of blocks, or of layers in them, that stay.
    """
    calls = _calls(model, input_shape)
    once = {name: came[0] for name, came in calls.items() if len(came) == 1}
    passing = [name for name, came in once.items() if _passes(model.get_submodule(name), came)]
    inner = [name for name in passing if not any(other.startswith(f"{name}.") for other in passing)]
    return tuple(name for name in inner if not _named(model, name, keep))


def bypass(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """A copy of the model in which the identity stands in the place of these blocks."""
    short = clone(model)
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(short.get_submodule(parent), child, nn.Identity())
    return short


def _named(model: nn.Module, block: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern names a block or something in it."""
    names = [f"{block}.{part}".rstrip(".") for part, _ in model.get_submodule(block).named_modules()]
    return any(fnmatch(name, pattern) for name in names for pattern in patterns)


def _calls(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, list[Tensor | None]]:
    """Per module that holds a convolution, for each time it ran, some input like its own; None if it changes shapes."""
    found: dict[str, list[Tensor | None]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
        def hook(block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            plain = len(inputs) == 1 and not named and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
            came = _like(inputs[0]) if plain and inputs[0].shape == output.shape else None
            found.setdefault(name, []).append(came)

        return hook

    hooks = [
        module.register_forward_hook(watch(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name and any(isinstance(part, nn.Conv2d) for part in module.modules() if part is not module)
    ]
    run_blank(model, input_shape, hooks)
    return found


def _like(came: Tensor) -> Tensor:
    """Random values of the signs that came: zeros, as a fresh network may have them, would pass anything."""
    values = torch.rand_like(came)
    return values - 0.5 if bool((came < 0).any()) else values


def _passes(block: nn.Module, came: Tensor | None) -> bool:
    """Whether a block hands on what came, once its weights are zero."""
    if came is None:
        return False
    silent = clone(block)
    for parameter in silent.parameters():
        parameter.data.zero_()
    with torch.no_grad(), evaluating(silent):
        return torch.equal(silent(came), came)
