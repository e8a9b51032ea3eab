"""The documented script runs our checkpoints where rescompress is not installed, to the bit."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

from rescompress import checkpoint, models
from rescompress.context import Context
from rescompress.pruning import prune
from tests.networks import fused, noise, stock

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "without_rescompress.py"
MOST_LINES = 15
Import = ast.Import | ast.ImportFrom
ELSEWHERE = """
import runpy, sys
import torch
from safetensors.torch import load_file

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "rescompress":
            raise ModuleNotFoundError("rescompress is not installed")

sys.meta_path.insert(0, Nowhere())
try:
    import torchvision
except RuntimeError:  # a compiled part for another PyTorch; its two operators are not needed
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

_, script, file = sys.argv
sys.argv = [script, file]
torch.set_num_threads(1)
model = runpy.run_path(script)["model"]
wanted = load_file(file + ".wanted")
with torch.no_grad():
    assert torch.equal(model(wanted["images"]), wanted["logits"])
assert not any(name.partition(".")[0] == "rescompress" for name in sys.modules)
"""


def with_answers(model: nn.Module, path: Path) -> Path:
    """Save a network, and beside it some images and its logits."""
    checkpoint.save(model, path)
    images = noise(model)
    save_file({"images": images, "logits": models.predict(model, [images])}, path.with_name(f"{path.name}.wanted"))
    return path


def runs_elsewhere(file: Path) -> None:
    words = [sys.executable, "-c", ELSEWHERE, SCRIPT, file]
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(words, cwd=file.parent, env=bare, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{file.stem}, ")


def test_a_pruned_and_fused_network_runs_without_rescompress(tmp_path: Path) -> None:
    small = prune(fused("torchvision", "resnet18", side=64), Context(), ratio=0.5)
    runs_elsewhere(with_answers(small, tmp_path / "resnet18.safetensors"))


@pytest.mark.slow
def test_a_network_with_fewer_groups_runs_without_rescompress(tmp_path: Path) -> None:
    small = prune(stock("torchvision", "resnext50_32x4d", side=64), Context(), ratio=0.5)
    runs_elsewhere(with_answers(small, tmp_path / "resnext50_32x4d.safetensors"))


def test_the_script_is_as_short_as_it_says() -> None:
    tree = ast.parse(SCRIPT.read_text("utf-8"))
    shown = {tree.body[0], tree.body[-1]}
    lines = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt) and node not in shown}
    assert len(lines) <= MOST_LINES
    names = {getattr(node, "module", None) or node.names[0].name for node in tree.body if isinstance(node, Import)}
    assert names == {"json", "sys", "safetensors", "torch.nn", "torchvision.models"}
