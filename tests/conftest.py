"""Fixtures for the whole suite; shapes and types in signatures are checked while it runs."""

from pathlib import Path

import jaxtyping
import pytest

CHECKED = (
    *("data", "models", "layers", "graph", "fakequant", "checkpoint", "metrics", "cost", "context"),
    *("fusion", "pruning", "quantization", "distillation", "training"),
)
jaxtyping.install_import_hook([f"rescompress.{name}" for name in CHECKED], "beartype.beartype")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images beside the checkout; they are never part of the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("The real images are not here: they lie in shared/data beside the checkout, where there is one.")
    return folder
