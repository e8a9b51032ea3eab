"""Networks written for LiteRT and run there, for the tests of that backend."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rescompress import models
from rescompress.artifact import Artifact, Manifest
from rescompress.backends import litert


def written(model: nn.Module, folder: Path, **knobs: Any) -> Artifact:
    """An artifact in a folder of its own."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    spec = models.spec_of(model)
    entry = litert.export(model, spec, folder, **knobs)
    return Artifact(folder, Manifest("", "", "litert", "", "int8", entry, {entry: ""}, spec, "", "", "", knobs))


def answer(artifact: Artifact, images: NDArray[Any]) -> NDArray[np.float32]:
    """What it computes on one thread."""
    with litert.load(artifact, threads=1) as session:
        return session.run(images)


def details(artifact: Artifact) -> list[dict[str, Any]]:
    """Every tensor as the interpreter tells it."""
    with litert.load(artifact, threads=1) as session:
        found: list[dict[str, Any]] = session.interpreter.get_tensor_details()
    return found
