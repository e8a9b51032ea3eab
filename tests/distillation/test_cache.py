"""The teacher is asked once, and only where that changes nothing."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rescompress import models
from rescompress.context import Context
from rescompress.distillation import distill
from rescompress.distillation import teacher as teachers
from rescompress.errors import RecipeError
from rescompress.training import Schedule
from tests.networks import context, quantized, stock

BRIEF = Schedule(epochs=2, batch=16, augment="none")


@pytest.fixture(scope="module")
def student() -> nn.Module:
    return models.build(models.spec("cifar", "resnet8", 10), seed=3)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many images the teacher was shown, call by call."""
    counts: list[int] = []
    plain = teachers.Teacher.answer

    def answer(self, images, taps=()):  # type: ignore[no-untyped-def]
        counts.append(len(images))
        return plain(self, images, taps)

    monkeypatch.setattr(teachers.Teacher, "answer", answer)
    return counts


def taught_by(student: nn.Module, ctx: Context, **knobs: object) -> torch.Tensor:
    made = distill(student, ctx, schedule=BRIEF, **knobs)
    return torch.cat([tensor.flatten() for tensor in made.state_dict().values()])


@pytest.mark.parametrize("loss", ["logits", "dkd"])
@pytest.mark.parametrize("kind", [stock, pytest.param(quantized, marks=pytest.mark.slow)])
def test_it_changes_nothing_but_the_work(student: nn.Module, asked: list[int], loss: str, kind) -> None:
    ctx = context().with_reference(kind("cifar", "resnet8"))
    cached = taught_by(student, ctx, loss=loss, cache=True)
    assert sum(asked) == 32
    assert torch.allclose(cached, taught_by(student, ctx, loss=loss), atol=1e-4)
    assert sum(asked) == 32 + 2 * 32


def test_it_is_kept_in_the_scratch_folder(student: nn.Module, asked: list[int], tmp_path: Path) -> None:
    ctx = replace(context(), scratch=tmp_path).with_reference(stock("cifar", "resnet8"))
    first = taught_by(student, ctx, cache=True)
    assert sum(asked) == 32
    assert torch.equal(first, taught_by(student, ctx, cache=True))
    assert sum(asked) == 32
    (file,) = tmp_path.glob("teacher-*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(first, taught_by(student, ctx, cache=True))
    assert sum(asked) == 64


def test_another_teacher_or_other_images_are_asked_anew(student: nn.Module, asked: list[int], tmp_path: Path) -> None:
    ctx = replace(context(), scratch=tmp_path).with_reference(stock("cifar", "resnet8"))
    assert ctx.data is not None
    others = [
        ctx.with_reference(stock("cifar", "resnet8", shortcut="B")),
        ctx.with_reference(quantized("cifar", "resnet8")),
        replace(ctx, data=replace(ctx.data, fingerprint="other")),
    ]
    for count, each in enumerate([ctx, *others], 1):
        taught_by(student, each, cache=True)
        assert sum(asked) == count * 32


@pytest.mark.parametrize("knobs", [{"augment": "shift"}, {"mixup": 0.2}, {"cutmix": 1.0}, {"randaugment": 5}])
def test_it_is_refused_where_images_change(student: nn.Module, knobs: dict[str, object]) -> None:
    ctx = context().with_reference(stock("cifar", "resnet8"))
    with pytest.raises(RecipeError, match="must see the same altered images"):
        distill(student, ctx, schedule=replace(BRIEF, **knobs), cache=True)


def test_it_is_refused_for_features(student: nn.Module) -> None:
    ctx = context().with_reference(stock("cifar", "resnet8"))
    with pytest.raises(RecipeError, match="hint reads features"):
        distill(student, ctx, schedule=BRIEF, loss="hint", cache=True)
