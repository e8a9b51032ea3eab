"""What makes a compressed model differ from its stock network: found by comparing both, and done again on loading."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from rescompress import models
from rescompress.errors import InputRefused
from rescompress.layers import PadShortcut, PixelConv, keep_channels, without_norm

MOST_GROWTH = 8
"""How many times more weights than its stock layer a factorized one may claim to have."""


@dataclass(frozen=True)
class Edit:
    """How one module differs from its stock form: its kind and the fields that changed."""

    module: str
    kind: str
    fields: dict[str, Any]


def edits(model: nn.Module) -> tuple[Edit, ...]:
    """What makes a model differ from its stock network.

    Raises:
        InputRefused: a layer differs in a way that no stage makes, so that a file couldn't bring it back.
    """
    if isinstance(model, fx.GraphModule):
        return tuple(model.meta.get("edits", ()))
    stock = models.outline(models.spec_of(model))
    now = dict(model.named_modules())
    found: list[Edit] = []
    replaced: tuple[str, ...] = ()
    for name, before in stock.named_modules():
        if name.startswith(replaced):
            continue
        edit = _compare(name, before, now.get(name))
        if edit is not None:
            found.append(edit)
            replaced += (f"{name}.",) if edit.kind in ("folded", "factorized", "bypassed") else ()
    known = {name for name, _ in stock.named_modules()}
    for name in now:
        if name not in known and not name.startswith(replaced):
            raise _refusal(name, None, now[name])
    return tuple(found)


def apply(model: nn.Module, edit: Edit) -> None:
    """Give one module of the stock network its edited form, in place.

    Raises:
        InputRefused: the stock network has no such module.
        ValueError, TypeError, LookupError: the fields make no layer.
    """
    parent, _, name = edit.module.rpartition(".")
    module, fields = dict(model.named_modules()).get(edit.module), edit.fields
    if edit.kind == "folded" and isinstance(module, nn.BatchNorm2d):
        setattr(model.get_submodule(parent), name, without_norm(module))
    elif edit.kind == "factorized" and isinstance(module, (nn.Conv2d, nn.Linear)):
        setattr(model.get_submodule(parent), name, _factors(module, fields["layers"]))
    elif edit.kind == "bypassed" and module is not None and list(module.children()):
        setattr(model.get_submodule(parent), name, nn.Identity())
    elif edit.kind == "pixels" and isinstance(module, nn.Conv2d):
        setattr(model.get_submodule(parent), name, PixelConv(module))
    elif edit.kind == "pad_shortcut" and isinstance(module, PadShortcut):
        module.connect(fields["in_channels"], fields["sources"])
    elif edit.kind == "conv" and isinstance(module, nn.Conv2d):
        _resize(module, fields)
    elif edit.kind == "linear" and isinstance(module, nn.Linear):
        keep_channels(module, range(fields["in_features"]), range(fields["out_features"]))
    elif edit.kind == "norm" and isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
        keep_channels(module, None, range(fields["channels"]))
    else:
        raise InputRefused(
            f"The checkpoint edits {edit.module} as a {edit.kind}, which the stock network doesn't have.",
            "The file was changed or comes from a newer rescompress: update, or compress again.",
        )


def _compare(name: str, before: nn.Module, now: nn.Module | None) -> Edit | None:
    """The edit that makes one stock module what it is now; None where it is as it was."""
    if isinstance(before, nn.BatchNorm2d) and _left_of(before) == _kind(now):
        return Edit(name, "folded", {})
    if list(before.children()) and type(now) is nn.Identity:
        return Edit(name, "bypassed", {})
    if isinstance(before, (nn.Conv2d, nn.Linear)) and type(now) is nn.Sequential:
        return Edit(name, "factorized", {"layers": [_factor(name, layer) for layer in now]})
    if _kind(before) != _kind(now) or _fixed(before) != _fixed(now) or not _same_units(before, now):
        raise _refusal(name, before, now)
    if now is None or _sizes(before) == _sizes(now):
        return None
    kind, fields = _sizes(now)
    return Edit(name, kind, fields)


def _refusal(name: str, before: nn.Module | None, now: nn.Module | None) -> InputRefused:
    return InputRefused(
        f"{name} is a {_kind(now)} that no stage makes of the stock network's {_kind(before)}.",
        "Save such a network with your own code, or let a --builder function make it from the start.",
    )


def _kind(module: nn.Module | None) -> str:
    return type(module).__name__ if module is not None else "missing layer"


def _left_of(norm: nn.BatchNorm2d) -> str:
    rest = without_norm(norm)
    return _kind(rest) if rest is not None else "nothing"


def _sizes(module: nn.Module) -> tuple[str, dict[str, Any]]:
    """What pruning and folding change in a layer."""
    if isinstance(module, nn.Conv2d):
        fields = {"out_channels": module.out_channels, "in_channels": module.in_channels, "groups": module.groups}
        return "conv", {**fields, "bias": module.bias is not None}
    if isinstance(module, nn.Linear):
        return "linear", {"out_features": module.out_features, "in_features": module.in_features}
    if isinstance(module, nn.BatchNorm2d):
        return "norm", {"channels": module.num_features}
    if isinstance(module, nn.GroupNorm):
        return "norm", {"channels": module.num_channels}
    if isinstance(module, PadShortcut):
        return "pad_shortcut", {"in_channels": module.in_channels, "sources": list(module.sources)}
    return "", {}


def _fixed(module: nn.Module | None) -> object:
    """What no stage changes in a layer, but its outputs depend on."""
    if isinstance(module, nn.Conv2d):
        return module.kernel_size, module.stride, module.padding, module.dilation, module.padding_mode
    if isinstance(module, nn.BatchNorm2d):
        return module.eps, module.affine, module.track_running_stats
    if isinstance(module, nn.GroupNorm):
        return module.eps, module.num_channels // module.num_groups
    if isinstance(module, nn.Linear):
        return module.bias is None
    if isinstance(module, PadShortcut):
        return module.stride
    return None if module is None or list(module.children()) else repr(module)


def _same_units(before: nn.Module, now: nn.Module | None) -> bool:
    """Whether a convolution has groups like its stock form and no bias less; its last group may be cut like any."""
    if not isinstance(before, nn.Conv2d) or not isinstance(now, nn.Conv2d):
        return True
    if before.bias is not None and now.bias is None:
        return False
    if before.groups == 1 or now.groups == 1:
        return now.groups == 1
    return (now.out_channels // now.groups, now.in_channels // now.groups) == (
        before.out_channels // before.groups,
        before.in_channels // before.groups,
    )


def _resize(conv: nn.Conv2d, fields: dict[str, Any]) -> None:
    """Cut a stock convolution to its edited widths, in place: whole groups first, as the last one is like any other."""
    if conv.groups > 1:
        keep_channels(conv, None, range(conv.out_channels // conv.groups * fields["groups"]))
    if conv.groups == 1:
        keep_channels(conv, range(fields["in_channels"]), range(fields["out_channels"]))
    if fields["bias"] and conv.bias is None:
        conv.bias = nn.Parameter(torch.zeros(conv.out_channels))


_FACTOR = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")


def _factor(name: str, layer: nn.Module) -> dict[str, Any]:
    """The arguments that make one layer of a factorized one again."""
    if type(layer) is nn.Linear:
        return {"in_features": layer.in_features, "out_features": layer.out_features, "bias": layer.bias is not None}
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
        fields = {field: getattr(layer, field) for field in _FACTOR} | {"bias": layer.bias is not None}
        fields |= {"groups": layer.groups} if layer.groups > 1 else {}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    raise InputRefused(f"{name} is split into layers with a {_kind(layer)}.", "Save such a network with your own code.")


def _factors(stock: nn.Conv2d | nn.Linear, layers: list[dict[str, Any]]) -> nn.Sequential:
    """The layers that stand for a stock one, with weights yet to be loaded."""
    make: Any = nn.Conv2d if isinstance(stock, nn.Conv2d) else nn.Linear
    made = []
    for fields in layers:
        sized = {field: tuple(v) if isinstance(v, list) else v for field, v in fields.items()}
        with torch.device("meta"):
            size = sum(p.numel() for p in make(**sized).parameters())
        if size > MOST_GROWTH * stock.weight.numel():
            raise ValueError("a factor larger than its layer")
        made.append(make(**sized))
    if not made:
        raise ValueError("no factors")
    return nn.Sequential(*made)
