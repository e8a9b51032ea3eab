"""The stages, and the order in which they may stand."""

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from rescompress import catalog
from rescompress.errors import RecipeError

STAGES = {
    "fit": ("rescompress.training", "fit"),
    "prune": ("rescompress.pruning", "prune"),
    "factorize": ("rescompress.factorization", "factorize"),
    "distill": ("rescompress.distillation", "distill"),
    "fuse": ("rescompress.fusion", "fuse"),
    "quantize": ("rescompress.quantization", "quantize"),
}
"""Every stage, in the order in which a whole chain runs them."""
BEFORE = (
    ("fit", "fuse", "training needs BatchNorm"),
    ("prune", "fuse", "the recovery after it needs BatchNorm"),
    ("factorize", "fuse", "the recovery after it needs BatchNorm"),
    ("distill", "fuse", "training needs BatchNorm"),
    ("fit", "quantize", "its ranges belong to the weights that it saw"),
    ("prune", "quantize", "its ranges belong to the channels that it saw"),
    ("factorize", "quantize", "its ranges belong to the layers that it saw"),
    ("distill", "quantize", "its ranges belong to the weights that it saw"),
    ("fuse", "quantize", "its ranges belong to the folded weights"),
)
"""(earlier, later, why the later one can't go first)."""
NEEDS = {"quantize": "fuse"}
TRAININGS = ("fit", "distill")
"""Stages that are one long training."""


def stage(name: str) -> Callable[..., Any]:
    """A stage function by its name.

    Raises:
        RecipeError: there is no such stage.
    """
    if name not in STAGES:
        raise RecipeError(f"There is no stage '{name}'.", catalog.suggest(str(name), list(STAGES)))
    return function(*STAGES[name])


def together(name: str, knobs: Mapping[str, Any]) -> bool:
    """Whether several processes share a stage, because it trains; the main process does the others alone."""
    return name in TRAININGS or (name == "quantize" and knobs.get("qat", "off") != "off")


def check_order(stages: Sequence[str]) -> None:
    """Refuse an order that can't work.

    Raises:
        RecipeError: a stage stands after one that it must precede, or lacks one that it needs.
    """
    for earlier, later, why in BEFORE:
        if later in stages and earlier in stages[stages.index(later) :]:
            raise RecipeError(f"{earlier} stands behind {later}, but {why}.", f"Put {earlier} before {later}.")
    for name, needed in NEEDS.items():
        if name in stages and needed not in stages[: stages.index(name)]:
            raise RecipeError(f"{name} needs {needed} before it.", f"Add the line '- {needed}' above {name}.")
    if stages.count("quantize") > 1:
        raise RecipeError("quantize stands twice.", "Quantize once, as the last stage.")


@functools.cache
def function(module: str, name: str) -> Callable[..., Any]:
    """A function by module and name, imported when it is needed."""
    return cast(Callable[..., Any], getattr(importlib.import_module(module), name))
