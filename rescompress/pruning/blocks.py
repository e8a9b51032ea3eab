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
    return _replaced(model, names, lambda block: nn.Identity())


def silence(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """A copy of the whole model in which every weight of these blocks is zero; it answers as the bypassed one must."""
    return _replaced(model, names, _zeroed)


def _named(model: nn.Module, block: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern names a block or something in it."""
    names = [f"{block}.{part}".rstrip(".") for part, _ in model.get_submodule(block).named_modules()]
    return any(fnmatch(name, pattern) for name in names for pattern in patterns)


def _replaced(model: nn.Module, names: Sequence[str], change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    changed = clone(model)
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(changed.get_submodule(parent), child, change(changed.get_submodule(name)))
    return changed


def _zeroed(block: nn.Module) -> nn.Module:
    for parameter in block.parameters():
        parameter.data.zero_()
    return block


def _calls(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, list[Tensor | None]]:
    """Per module that holds a convolution, for each time it ran, some input like its own; None if it changes shapes."""
    found: dict[str, list[Tensor | None]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
        def hook(block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            plain = len(inputs) == 1 and not named and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
            # Never negative, as what comes from a ReLU; and not what came, which may be zeros in a fresh network.
            came = torch.rand_like(inputs[0]) if plain and inputs[0].shape == output.shape else None
            found.setdefault(name, []).append(came)

        return hook

    hooks = [
        module.register_forward_hook(watch(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name and any(isinstance(part, nn.Conv2d) for part in module.modules() if part is not module)
    ]
    run_blank(model, input_shape, hooks)
    return found


def _passes(block: nn.Module, came: Tensor | None) -> bool:
    """Whether a block hands on what came, once its weights are zero."""
    if came is None:
        return False
    with torch.no_grad(), evaluating(_zeroed(clone(block))) as silent:
        return torch.equal(silent(came), came)
