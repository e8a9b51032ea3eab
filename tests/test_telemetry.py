"""No runtime that we load leaves a device id or sends usage data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_onnx_runtime_leaves_nothing_in_the_users_folders(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    program = "import rescompress, onnxruntime; onnxruntime.get_available_providers()"
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
