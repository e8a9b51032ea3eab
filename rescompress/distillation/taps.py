"""Where features of two networks can be compared: the last value of each spatial size that both have."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress import graph
from rescompress.errors import InputRefused

Size = tuple[int, int]
WRAPPERS = ("", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.")
"""What parallel and compiled modules put before the names of the module in them."""


@dataclass(frozen=True)
class Tap:
    """A module whose output is read.

    Attributes:
        module: its name.
        channels: of its output.
        size: height and width of its output.
    """

    module: str
    channels: int
    size: Size


@dataclass(frozen=True)
class Pairs:
    """Taps of student and teacher, as many of each, of the same size pair by pair, finest first."""

    student: tuple[Tap, ...] = ()
    teacher: tuple[Tap, ...] = ()


@dataclass(frozen=True)
class _Call:
    """What one module read and made."""

    read: Size | None
    tap: Tap


def pair(student: nn.Module, teacher: nn.Module, input_shape: tuple[int, int, int]) -> Pairs:
    """The taps of both at every size that they share.

    Args:
        student: any network of modules.
        teacher: another one, of the same or of another architecture.
        input_shape: one image's, which both are shown.

    Raises:
        InputRefused: they have no size in common, or one is a captured graph, in which no module is called.
    """
    found = [find(model, input_shape) for model in (student, teacher)]
    for role, taps in zip(("student", "teacher"), found, strict=True):
        if not taps:
            raise InputRefused(
                f"The {role}'s features can't be read: no module of it is called that holds two convolutions.",
                "Take a loss that reads logits, or a checkpoint that is not yet quantized.",
            )
    shared = sorted(found[0].keys() & found[1].keys(), reverse=True)
    if not shared:
        said = [", ".join(f"{h} x {w}" for h, w in sorted(taps, reverse=True)) for taps in found]
        raise InputRefused(
            f"The student's features are {said[0]} large, but the teacher's {said[1]}.",
            "Take a teacher whose strides are the student's, or a loss that reads logits.",
        )
    mine, theirs = (tuple(taps[size] for size in shared) for taps in found)
    return Pairs(mine, theirs)


def find(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[Size, Tap]:
    """The module that is the last to finish at each spatial size, for one image of zeros.

    It holds two convolutions at least, so that stages are found and not layers. What begins or branches inside a module
    of another size is not the end of anything: a block's layers before its stride, a gate's pooled path.
    """
    calls = _calls(model, input_shape)
    runs = Counter(call.tap.module for call in calls)
    once = {call.tap.module: call for call in calls if runs[call.tap.module] == 1}
    found: dict[Size, Tap] = {}
    for name, call in once.items():
        above = [once[outer] for outer in _outer(name) if outer in once]
        convs = sum(isinstance(part, nn.Conv2d) for part in model.get_submodule(name).modules())
        if convs > 1 and not any(_inside(call.tap.size, whole) for whole in above):
            found[call.tap.size] = call.tap
    return found


@contextlib.contextmanager
def reading(model: nn.Module, taps: Sequence[Tap]) -> Iterator[list[Float[Tensor, "b _ _ _"]]]:
    """Gather the taps' values of one forward, in the order of the taps; nothing stays hooked afterwards.

    Args:
        model: the network in which the taps were found, or one that wraps it or its copy.
        taps: what to read.
    """
    values: dict[str, Tensor] = {}
    gathered: list[Tensor] = []
    before = next(prefix for prefix in WRAPPERS if all(_has(model, prefix + tap.module) for tap in taps))
    with contextlib.ExitStack() as hooks:
        for tap in taps:
            hook = _keep(values, tap.module)
            handle = model.get_submodule(before + tap.module).register_forward_hook(hook)
            hooks.callback(handle.remove)
        yield gathered
    gathered.extend(values[tap.module] for tap in taps)


def _inside(size: Size, whole: _Call) -> bool:
    """Whether a value of this size is what a block with a stride begins with, or a branch of one that has none.

    What strides more than once is a row of stages, and each of them ends somewhere in it.
    """
    made = whole.tap.size
    begins = whole.read == size and size[0] <= 2 * made[0] + 1
    return size != made and (begins or whole.read == made)


def _calls(model: nn.Module, input_shape: tuple[int, int, int]) -> list[_Call]:
    """Every call of a module that makes one 4-D tensor, in the order in which they end."""
    calls: list[_Call] = []

    def hook(name: str) -> Any:
        def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4:
                read = inputs[0] if inputs else None
                before = _size(read) if isinstance(read, Tensor) and read.dim() == 4 else None
                calls.append(_Call(before, Tap(name, output.shape[1], _size(output))))

        return note

    device = next(model.parameters()).device
    with contextlib.ExitStack() as hooks, graph.evaluating(model), torch.no_grad():
        for name, module in model.named_modules():
            if name:
                hooks.callback(module.register_forward_hook(hook(name)).remove)
        model(torch.zeros(1, *input_shape, device=device))
    return calls


def _keep(values: dict[str, Tensor], name: str) -> Any:
    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        values[name] = output

    return keep


def _size(value: Tensor) -> Size:
    return int(value.shape[2]), int(value.shape[3])


def _outer(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True
