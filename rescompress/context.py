"""What a stage may know of the world besides the model: read-only facts."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rescompress import data, models
from rescompress.data import Data
from rescompress.errors import InputRefused, RecipeError
from rescompress.spec import ModelSpec


@dataclass(frozen=True)
class Context:
    """The surroundings of a stage.

    Attributes:
        data: labelled images; None where no stage needs any.
        seed: every random choice of every stage is drawn from this.
        reference: the untouched model: the teacher by default, and what accuracy is compared with.
        device: where training runs, such as ``cpu`` or ``cuda:0``.
        scratch: folder in which a training keeps its journal, and its state while it goes on; None keeps nothing.
        trackers: tools in which people watch a training, files of ``training/trackers``.
    """

    data: Data | None = None
    seed: int = 0
    reference: nn.Module | None = None
    device: str = "cpu"
    scratch: Path | None = None
    trackers: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: nn.Module, source: str | None = None, *, seed: int = 0, **knobs: Any) -> "Context":
        """A context for one model, with the model itself as the reference.

        Args:
            model: the untouched model.
            source: name of a data source, such as ``digits``.
            seed: what every random choice is drawn from.
            knobs: the data source's knobs.
        """
        opened = data.load(source, models.spec_of(model).preprocessing, **knobs) if source else None
        return cls(fit_data(opened, models.spec_of(model)), seed, model)

    def images(self, stage: str) -> Data:
        """The labelled images.

        Raises:
            RecipeError: there are none.
        """
        if self.data is None:
            raise RecipeError(f"{stage} needs images.", "Name a data source with --data, or data: in the recipe.")
        return self.data

    def generator(self, purpose: str) -> torch.Generator:
        """A generator of its own for each purpose, so that no stage disturbs another's draws."""
        digest = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def with_reference(self, model: nn.Module) -> "Context":
        """The same surroundings with another reference."""
        return replace(self, reference=model)


def fit_data(opened: Data | None, spec: ModelSpec) -> Data | None:
    """The data, if its classes are those of the model; a model that gives back maps reads the images only.

    Raises:
        InputRefused: the model has another number of classes.
    """
    if opened is not None and spec.output == "logits" and len(opened.classes) != spec.classes:
        raise InputRefused(
            f"The model tells {spec.classes} classes apart, but {opened.source} has {len(opened.classes)}.",
            "Use the data that the model was trained for.",
        )
    return opened
