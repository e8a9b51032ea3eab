"""MLflow; where it writes is set by its own MLFLOW_TRACKING_URI."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from rescompress.errors import BackendMissing


class Run:
    """One training's run."""

    def __init__(self, mlflow: Any) -> None:
        self._mlflow = mlflow

    def log(self, step: int, values: dict[str, float]) -> None:
        """All numbers of a step."""
        self._mlflow.log_metrics(values, step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


def open_tracker(folder: Path, purpose: str) -> Run:
    """Start a run in the experiment ``rescompress``.

    Raises:
        BackendMissing: mlflow is not installed.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise BackendMissing("mlflow is not installed.", "Run: pip install mlflow")
    mlflow: Any = importlib.import_module("mlflow")
    mlflow.set_experiment("rescompress")
    mlflow.start_run(run_name=f"{folder.name} {purpose}")
    return Run(mlflow)
