"""Artifacts of a fake backend that worker processes find, though it is no part of the package."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import rescompress.backends
from rescompress.artifact import SCHEMA, Manifest, write_artifact
from rescompress.spec import ModelSpec, Preprocessing

FAKES = Path(__file__).parent / "fakes"
MODEL = ModelSpec("fake", "none", 10, Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))


@pytest.fixture(scope="module")
def fake_backends():
    """Worker processes inherit the environment, and Python imports ``sitecustomize`` when it starts."""
    root = Path(rescompress.backends.__file__).parents[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(FAKES), str(root)]))
        yield


@pytest.fixture(scope="module")
def spinning(fake_backends, tmp_path_factory) -> Callable[..., Path]:
    """Make an artifact whose query takes so many milliseconds, and that may meet some fate."""

    def make(label: str, milliseconds: float = 0.5, fate: str = "lives") -> Path:
        def fill(folder: Path) -> str:
            (folder / "model.json").write_text(json.dumps({"milliseconds": milliseconds, "fate": fate}))
            return "model.json"

        def describe(entry: str, files: dict[str, str]) -> Manifest:
            return Manifest(SCHEMA, "0", "spinning", label, "fp32", entry, files, MODEL, "none", "0" * 64, "key")

        return write_artifact(tmp_path_factory.mktemp("artifacts") / label, fill, describe).folder

    return make


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype(np.float32)
