"""The file that is copied to devices: it stands alone, runs on old Pythons, and computes what the backends compute."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rescompress import backends
from rescompress.artifact import open_artifact
from rescompress.benchmarking.remote import runner
from rescompress.pipeline.proof import export_artifact
from tests.networks import fused, noise

FILE = Path(runner.__file__)
ALONE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("alone", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
others = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(sorted(name for name in others if not name.startswith("_") and name not in ("alone", "sitecustomize")))
"""


def test_it_needs_numpy_and_nothing_else():
    said = subprocess.run([sys.executable, "-I", "-c", ALONE, FILE], capture_output=True, text=True, check=True)
    assert set(ast.literal_eval(said.stdout)) - PRELOADED <= {"numpy"}
    assert "numpy" in said.stdout


PRELOADED = set(
    ast.literal_eval(
        subprocess.run(
            [sys.executable, "-I", "-c", "import sys; print(sorted(n.partition('.')[0] for n in sys.modules))"],
            capture_output=True, text=True, check=True,
        ).stdout
    )
)  # fmt: skip
"""What the interpreter's own site-packages load at every start."""


def test_it_is_python_3_8():
    tree = ast.parse(FILE.read_text("utf-8"), feature_version=(3, 8))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert "rescompress" not in imported
    # names that only later releases know: unions, subscripted built-ins, merged dicts
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)
                and not isinstance(node.left, ast.Attribute)]  # fmt: skip
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)
                and node.value.id in ("list", "dict", "tuple", "set", "type")]  # fmt: skip


def runs(python):
    said = subprocess.run([python, "--version"], capture_output=True, check=False)
    return said.returncode == 0 and said.stdout.startswith(b"Python 3.8")


def test_a_python_3_8_runs_it(tmp_path):
    found = [*Path.home().glob(".pyenv/versions/3.8*/bin/python"), shutil.which("python3.8")]
    old = next((one for one in found if one and runs(one)), None)
    if old is None:
        pytest.skip("There is no Python 3.8 here.")
    # NumPy for 3.8 isn't here: an empty stand-in shows that all else is understood
    (tmp_path / "numpy.py").write_text("float32 = int8 = None\n")
    line = "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[2], run_name='alone')"
    subprocess.run([old, "-I", "-W", "error", "-c", line, tmp_path, FILE], check=True)


@pytest.mark.parametrize(("count", "batch"), [(5, 2), (4, 4), (1, 3), (6, None)])
def test_a_fixed_batch_is_filled_up(count, batch):
    seen = []

    def once(images):
        seen.append(len(images))
        return images.sum((1, 2, 3))[:, None]

    images = np.random.default_rng(0).normal(size=(count, 3, 2, 2)).astype(np.float32)
    np.testing.assert_allclose(runner.filled(once, batch)(images)[:, 0], images.sum((1, 2, 3)), rtol=1e-6)
    assert set(seen) == {batch or count}


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "litert"])
def test_it_computes_what_the_backend_computes(backend, batch, tmp_path):
    if backends.get(backend).missing():
        pytest.skip(f"{backend} is not installed here.")
    model = fused("cifar", "resnet8")
    made = export_artifact(
        model, backend, {"batch": batch}, tmp_path / "a", label="a", source="", source_sha256="", key=""
    )
    artifact, images = open_artifact(made.folder), noise(model, 5).numpy()
    candidate = {"floats": artifact.manifest.floats, "pixels": artifact.manifest.takes_pixels}
    run = runner.SESSIONS[backend](str(artifact.entry), candidate, 1)
    with backends.get(backend).load(artifact, threads=1) as session:
        np.testing.assert_array_equal(run(images), session.run(images))
        np.testing.assert_array_equal(run(images[:2]), session.run(images[:2]))
