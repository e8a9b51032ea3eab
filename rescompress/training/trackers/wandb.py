"""Weights & Biases; what it sends and where to is set by its own variables, such as WANDB_MODE=offline."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from rescompress.errors import BackendMissing


class Run:
    """One training's run."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: dict[str, float]) -> None:
        """All numbers of a step."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def open_tracker(folder: Path, purpose: str) -> Run:
    """Start a run in the project ``rescompress``.

    Raises:
        BackendMissing: wandb is not installed.
    """
    if importlib.util.find_spec("wandb") is None:
        raise BackendMissing("wandb is not installed.", "Run: pip install wandb")
    wandb: Any = importlib.import_module("wandb")
    return Run(wandb.init(project="rescompress", name=f"{folder.name} {purpose}", dir=str(folder)))
