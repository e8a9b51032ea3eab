"""A training that is stopped goes on bit by bit; one that goes wrong says so and loses nothing."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rescompress import checkpoint, data, models, progress
from rescompress.context import Context
from rescompress.errors import GateFailed, InputRefused, ResourceExhausted, WorkerCrashed
from rescompress.training import Batch, Schedule, fit, snapshot, train
from rescompress.training.trackers import mlflow, tensorboard, wandb
from tests.networks import context, stock

LONG = Schedule(epochs=2, batch=8, lr=1e-3, augment="shift+mirror", ema=0.9, mixup=0.2, patience=5)

CHILD = """
import sys, time, torch
from dataclasses import replace
from pathlib import Path
from rescompress import training
from rescompress.training import snapshot
from tests.networks import context, stock
from tests.training.test_resume import LONG
torch.set_num_threads(1)
snapshot.EVERY_S, snapshot.LARGEST_SHARE = 0.0, 1e9
step = snapshot.Snapshots.keep
def slowly(self, state, **knobs):
    step(self, state, **knobs)
    time.sleep(0.3)
snapshot.Snapshots.keep = slowly
training.fit(stock("cifar", "resnet8"), replace(context(), scratch=Path(sys.argv[1])), schedule=LONG)
"""


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "EVERY_S", 0.0)
    monkeypatch.setattr(snapshot, "LARGEST_SHARE", 1e9)


def test_killed_in_the_middle_of_an_epoch_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], cwd=Path(__file__).parents[2])
    end = time.monotonic() + 120
    while not (folder / snapshot.FILE).is_file() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert (folder / snapshot.FILE).is_file()
    model = stock("cifar", "resnet8")
    with progress.gathered() as notes:
        resumed = fit(model, replace(context(), scratch=folder), schedule=LONG)
    assert any("goes on from step" in note for note in notes)
    assert equal(resumed, fit(model, context(), schedule=LONG))
    assert not (folder / snapshot.FILE).exists()


class Dies:
    """A split of which some reading fails, once."""

    def __init__(self, split: data.Split, at: int, error: Exception) -> None:
        self._split, self._left, self._error = split, at, error

    @property
    def labels(self) -> Tensor:
        return self._split.labels

    images = torch.empty(0, 3, 32, 32)

    def __len__(self) -> int:
        return len(self._split)

    def read(self, indices: Sequence[int]) -> Tensor:
        self._left -= 1
        if self._left == 0:
            raise self._error
        return self._split.read(indices)


@pytest.mark.parametrize("knobs", [{"optimizer": "adamw"}, {"amp": "fp16", "clip": 1.0}, {"ema": 0.0}])
@pytest.mark.parametrize("at", [pytest.param(2, marks=pytest.mark.slow), 7])
def test_it_goes_on_at_any_step(
    at: int, knobs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often(monkeypatch)
    schedule, model = replace(LONG, **knobs), stock("cifar", "resnet8")
    ctx = replace(context(), scratch=tmp_path)
    assert ctx.data
    dying = replace(ctx, data=replace(ctx.data, train=Dies(ctx.data.train, at, OSError("the disk is gone"))))
    with pytest.raises(WorkerCrashed, match="the disk is gone") as failure:
        fit(model, dying, schedule=schedule)
    assert failure.value.exit_code == 10
    assert equal(fit(model, ctx, schedule=schedule), fit(model, context(), schedule=schedule))


def test_what_a_reader_refuses_is_refused(tmp_path: Path) -> None:
    ctx = context()
    assert ctx.data
    refusing = Dies(ctx.data.train, 2, InputRefused("a.jpg can't be decoded.", "Remove it."))
    with pytest.raises(InputRefused, match=r"a\.jpg"):
        fit(stock("cifar", "resnet8"), replace(ctx, data=replace(ctx.data, train=refusing)), schedule=LONG)


def test_another_training_does_not_start_from_a_broken_snapshot(tmp_path: Path) -> None:
    (tmp_path / snapshot.FILE).write_bytes(b"half of a file")
    model, brief = stock("cifar", "resnet8"), replace(LONG, epochs=1)
    assert equal(
        fit(model, replace(context(), scratch=tmp_path), schedule=brief), fit(model, context(), schedule=brief)
    )


def test_an_exploding_loss_stops_and_keeps_the_last_good_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    often(monkeypatch)
    model = stock("cifar", "resnet8")

    def grows(student: nn.Module, batch: Batch) -> Tensor:
        return student(batch.images).square().mean() * (1 if batch.step < 3 else 1e9)

    with pytest.raises(GateFailed, match="loss of fit exploded from") as failure:
        train(model, replace(context(), scratch=tmp_path), replace(LONG, mixup=0.0, ema=0.0), grows, "fit")
    assert "step 3" in failure.value.remedy
    kept = checkpoint.load(tmp_path / "last-good.safetensors")
    assert models.spec_of(kept) == models.spec_of(model)
    assert all(tensor.isfinite().all() for tensor in kept.state_dict().values())
    assert not equal(kept, model)


def test_out_of_memory_halves_the_batch_and_says_so() -> None:
    model, sizes = stock("cifar", "resnet8"), []

    def hungry(student: nn.Module, batch: Batch) -> Tensor:
        sizes.append(len(batch.images))
        if len(batch.images) > 3:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return student(batch.images).square().mean()

    with progress.gathered() as notes:
        train(model, context(), replace(LONG, epochs=1, batch=8), hungry, "fit")
    assert notes == [
        "fit: out of memory; each batch is now taken in 2 parts.",
        "fit: out of memory; each batch is now taken in 4 parts.",
    ]
    assert sizes[:4] == [8, 4, 2, 2]


def test_not_even_a_part_of_a_batch_fits() -> None:
    def hungry(student: nn.Module, batch: Batch) -> Tensor:
        raise MemoryError

    with pytest.raises(ResourceExhausted, match="batches of 4 images") as failure:
        train(stock("cifar", "resnet8"), context(), replace(LONG, epochs=1, batch=4), hungry, "fit")
    assert failure.value.exit_code == 8


def test_parts_of_a_batch_make_the_gradient_of_the_whole() -> None:
    """Without BatchNorm's own averages the parts add up to the batch."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    models.describe(model, models.spec_of(stock("cifar", "resnet8")))
    once = Schedule(epochs=1, batch=13, lr=1e-3, augment="none")
    tried = []

    def loss(most: int, student: nn.Module, batch: Batch) -> Tensor:
        if len(batch.images) > most:
            raise RuntimeError("can't allocate memory")
        return nn.functional.cross_entropy(student(batch.images), batch.labels)

    for most in (100, 6):
        tried.append(train(model, context(), once, functools.partial(loss, most), "fit").state_dict())
    assert all(torch.allclose(tried[0][name], tried[1][name], atol=1e-6) for name in tried[0])


def test_the_journal_has_a_line_of_json_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rescompress.training import journal

    monkeypatch.setattr(journal, "EVERY_S", 0.0)
    (tmp_path / journal.FILE).write_text('{"step": 99, "loss": 0}\n{"step": 3, "lo')
    fit(stock("cifar", "resnet8"), replace(context(), scratch=tmp_path), schedule=LONG)
    lines = [json.loads(line) for line in (tmp_path / journal.FILE).read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(8))
    assert all(line["images_per_s"] > 0 and line["lr"] > 0 for line in lines if "loss" in line)
    assert sum("calibration_accuracy" in line for line in lines) == 2


class Watcher:
    """Stands for a tracker's module."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.seen.append((name, args, kwargs)) or self


@pytest.mark.parametrize("tracker", [wandb, mlflow], ids=["wandb", "mlflow"])
def test_trackers_hear_of_every_step(tracker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, watcher = tracker.__name__.rpartition(".")[2], Watcher()
    monkeypatch.setattr(tracker.importlib.util, "find_spec", lambda wanted: wanted)
    monkeypatch.setattr(tracker.importlib, "import_module", lambda wanted: watcher)
    opened = tracker.open_tracker(tmp_path, "fit")
    opened.log(3, {"loss": 0.5})
    opened.close()
    told = [entry for entry in watcher.seen if entry[0] in ("log", "log_metrics")]
    assert told == [("log" if name == "wandb" else "log_metrics", ({"loss": 0.5},), {"step": 3})]
    assert watcher.seen[-1][0] in ("finish", "end_run")


@pytest.mark.parametrize("tracker", [wandb, mlflow, tensorboard])
def test_a_tracker_that_is_not_installed_says_how_to_install_it(
    tracker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rescompress.errors import BackendMissing

    monkeypatch.setattr(tracker.importlib.util, "find_spec", lambda wanted: None)
    with pytest.raises(BackendMissing, match="is not installed") as failure:
        tracker.open_tracker(tmp_path, "fit")
    assert "pip install" in failure.value.remedy


def test_context_without_images_still_says_so() -> None:
    from rescompress.errors import RecipeError

    with pytest.raises(RecipeError, match="fit needs images"):
        fit(stock("cifar", "resnet8"), Context(), schedule=LONG)
