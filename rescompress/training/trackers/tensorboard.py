"""TensorBoard: ``tensorboard --logdir runs`` shows every training."""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from rescompress.errors import BackendMissing


class Board:
    """One training's event file."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, step: int, values: dict[str, float]) -> None:
        """Each number as a scalar."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still held."""
        self._writer.close()


def open_tracker(folder: Path, purpose: str) -> Board:
    """Write event files into the training's folder.

    Raises:
        BackendMissing: tensorboard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise BackendMissing("tensorboard is not installed.", "Run: pip install tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.utils.tensorboard import SummaryWriter
    return Board(SummaryWriter(str(folder / "tensorboard" / purpose)))
