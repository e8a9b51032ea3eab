"""Two processes do what one does: the same batches, the same statistics, the same weights but for rounding."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rescompress import processes
from rescompress.training import Schedule, fit
from tests.networks import context, stock

pytestmark = pytest.mark.xdist_group("processes")
ROOT = Path(__file__).parents[2]
SHARED = Schedule(epochs=1, batch=16, lr=1e-3, augment="shift+mirror", mixup=0.2, cutmix=1.0, ema=0.5, patience=3)

CHILD = """
import sys, torch
from safetensors.torch import save_file
from rescompress import processes
from rescompress.training import fit
from tests.networks import context, stock
from tests.training.test_processes import SHARED
torch.set_num_threads(1)
with processes.joined():
    assert processes.size() == 2
    made = fit(stock("cifar", "resnet8"), context(count=40), schedule=SHARED)
    save_file(made.state_dict(), f"{sys.argv[1]}/{processes.rank()}.safetensors")
    assert processes.told(processes.is_main())
    with processes.apart():
        assert processes.size() == 1 and processes.is_main()
    mine = torch.tensor(sum(processes.share(1001)))
    assert int(processes.total(mine)) == sum(range(1001))
"""


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_two_processes_equal_one(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    (tmp_path / "child.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{CHILD}")
    done = torchrun(str(tmp_path / "child.py"), str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    one = fit(stock("cifar", "resnet8"), context(count=40), schedule=SHARED).state_dict()
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name].double(), tensor.double(), atol=1e-4), name


RECIPE = """
name: shared
model: {family: cifar, architecture: resnet8, classes: 10}
data: digits
stages:
  - fit: {schedule: {epochs: 1, lr: 0.02, batch: 128}}
  - prune: {ratio: 0.3, round_to: 8}
  - distill: {schedule: {epochs: 1, lr: 0.001, batch: 128}}
max_accuracy_drop: 100
"""


@pytest.mark.slow
def test_a_whole_recipe_under_torchrun_is_written_once_and_judged_exactly(tmp_path: Path) -> None:
    from rescompress import pipeline, recipe, reporting

    (tmp_path / "shared.yaml").write_text(RECIPE)
    done = torchrun("-m", "rescompress", "run", str(tmp_path / "shared.yaml"), "-o", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("report: ") == 1
    two = reporting.read(tmp_path / "two")
    one = pipeline.run(recipe.read(tmp_path / "shared.yaml"), tmp_path / "one")
    for mine, theirs in zip(one.stages, two.stages, strict=True):
        assert mine.accuracy
        assert theirs.accuracy
        assert mine.accuracy.total == theirs.accuracy.total == 360
        assert mine.cost == theirs.cost
    assert one.stages[0].accuracy == two.stages[0].accuracy
    again = torchrun("-m", "rescompress", "run", str(tmp_path / "shared.yaml"), "-o", str(tmp_path / "two"))
    assert again.returncode == 0, again.stderr[-3000:]
    assert "01-fit" not in again.stderr


def test_shares_hold_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "size", lambda: 3)
    dealt = []
    for rank in range(3):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        dealt += list(processes.share(10))
    assert dealt == list(range(10))
