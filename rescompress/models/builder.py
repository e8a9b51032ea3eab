"""Your own network: a function that builds the module, named as ``package.module:function``."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rescompress.errors import InputRefused, RecipeError
from rescompress.models import Guess, Shapes, State, Stock


class _AnyFunction(Mapping[str, Stock]):
    """Every ``package.module:function`` is an architecture."""

    def __getitem__(self, name: str) -> Stock:
        module, _, function = name.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), function)):
            raise KeyError(name)
        return Stock()

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


ARCHITECTURES = _AnyFunction()
_allowed: set[str] = set()


def allow(name: str) -> None:
    """Let this function be called.

    A checkpoint only names a function; were naming enough, a file from elsewhere could run whatever is installed here.

    Args:
        name: ``package.module:function``; the working directory is looked in as well.

    Raises:
        RecipeError: there is no such function.
    """
    _function(name)
    _allowed.add(name)


def build(architecture: str, classes: int, *, keywords: dict[str, Any] = {}) -> nn.Module:  # noqa: B006 - only read
    """The module that the function builds.

    Args:
        architecture: ``package.module:function``.
        classes: given to the function where it has a parameter ``classes`` or ``num_classes``.
        keywords: further arguments of the function.

    Raises:
        InputRefused: nobody allowed this function, or it builds no module.
    """
    if architecture not in _allowed:
        raise InputRefused(
            f"This model is built by {architecture}, and a file can't decide which code runs here.",
            f"If you trust that function, say so with --builder {architecture}.",
        )
    function = _function(architecture)
    wanted = [name for name in ("classes", "num_classes") if name in inspect.signature(function).parameters]
    model = function(**dict.fromkeys(wanted[:1], classes), **keywords)
    if not isinstance(model, nn.Module):
        raise InputRefused(f"{architecture} gives back a {type(model).__name__}.", "Let it return an nn.Module.")
    return model


def guess(shapes: Shapes) -> Iterator[Guess]:
    """No state dict tells which function built its network."""
    return iter(())


def adopt(state: State) -> dict[str, Tensor]:
    """Names in public checkpoints are yours."""
    return dict(state)


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    if name not in ARCHITECTURES:
        raise RecipeError(f"'{name}' names no function.", "Write package.module:function.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{name} can't be imported: {error}.", "Check the name and the working directory.") from None
    if not callable(found):
        raise RecipeError(f"{name} is no function.", "Name a function that returns an nn.Module.")
    made: Callable[..., Any] = found
    return made
