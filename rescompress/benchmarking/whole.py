"""How long whole models take in a runtime, before anything is trained or quantized in earnest."""

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from rescompress import __version__, artifact, backends, fakequant, models, progress
from rescompress.artifact import SCHEMA, Manifest
from rescompress.benchmarking.layers import Target
from rescompress.benchmarking.method import Plan, launch
from rescompress.benchmarking.standin import quantized_standin
from rescompress.benchmarking.statistics import quiet
from rescompress.errors import InputRefused
from rescompress.schemes import scheme_for
from rescompress.sites import precision_of

_LAUNCHES, _BLOCKS, _BLOCK_SECONDS = 3, 10, 0.03
_IMAGES = 8


def time_models(candidates: Sequence[nn.Module], target: Target) -> list[float]:
    """Latency of each model, in seconds per batch, all exported and timed interleaved in fresh processes.

    Args:
        candidates: models of one input shape. A float model is timed in INT8 with ranges that are made up; one that
            was quantized for the backend is taken as it is.
        target: where and how they run; its device is not looked at.

    Raises:
        InputRefused: the models' inputs differ in shape.
        BackendMissing: the runtime is not installed here.
        WorkerCrashed: the runtime died.
    """
    shapes = {models.spec_of(model).input_shape for model in candidates}
    if len(shapes) > 1:
        raise InputRefused(f"Models of the inputs {sorted(shapes)} can't be timed together.", "Time them one by one.")
    if not candidates:
        return []
    ring = np.random.default_rng(0).standard_normal((_IMAGES + target.batch - 1, *shapes.pop()), np.float32)
    plan = Plan(target.batch, target.threads, _BLOCKS, _BLOCK_SECONDS)
    order = random.Random(0)  # noqa: S311 - the order of blocks is no secret
    with tempfile.TemporaryDirectory() as name:
        folders = [_export(model, target, Path(name) / str(i)) for i, model in enumerate(candidates)]
        launches = [
            launch(folders, [ring] * len(folders), plan, order) for _ in progress.track(range(_LAUNCHES), "time models")
        ]
    return [quiet([block for one in launches for block in one.blocks[i]]) / 1e9 for i in range(len(folders))]


def _export(model: nn.Module, target: Target, folder: Path) -> Path:
    spec, backend = models.spec_of(model), backends.require(target.backend)
    if target.precision == "int8" and not fakequant.sites_of(model):
        model = quantized_standin(model, spec.input_shape, scheme_for(target.backend))

    def describe(entry: str, files: dict[str, str]) -> Manifest:
        names = (target.backend, folder.name, precision_of(fakequant.sites_of(model)), entry)
        return Manifest(SCHEMA, __version__, *names, files, spec, "none", "0" * 64, "none")

    return artifact.write_artifact(folder, lambda empty: backend.export(model, spec, empty), describe).folder
