"""The stage: whom the student imitates."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rescompress import checkpoint, models
from rescompress.context import Context
from rescompress.data import InMemory
from rescompress.distillation import distill
from rescompress.errors import InputRefused, RecipeError
from rescompress.training import Schedule
from tests.networks import context, noise, same, snapshot, stock

BRIEF = Schedule(epochs=1, batch=16, augment="none")
ONLY_TEACHER = {"logits": {"alpha": 1.0}}


@pytest.fixture(scope="module")
def student() -> nn.Module:
    return models.build(models.spec("cifar", "resnet8", 10), seed=3)


@pytest.fixture(scope="module")
def made(student: nn.Module) -> nn.Module:
    return distill(student, context().with_reference(stock("cifar", "resnet8")), schedule=BRIEF, loss=ONLY_TEACHER)


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_the_reference_is_the_teacher(student: nn.Module, made: nn.Module) -> None:
    other = context().with_reference(stock("cifar", "resnet8", shortcut="B"))
    assert not equal(distill(student, other, schedule=BRIEF, loss=ONLY_TEACHER), made)


def test_a_named_teacher_goes_before_the_reference(student: nn.Module, made: nn.Module, tmp_path: Path) -> None:
    checkpoint.save(stock("cifar", "resnet8"), tmp_path / "teacher.safetensors")
    ctx = context().with_reference(stock("cifar", "resnet8", shortcut="B"))
    taught = distill(student, ctx, schedule=BRIEF, loss=ONLY_TEACHER, teacher=tmp_path / "teacher.safetensors")
    assert equal(taught, made)


def test_labels_do_not_matter_where_only_the_teacher_counts(student: nn.Module, made: nn.Module) -> None:
    ctx = context().with_reference(stock("cifar", "resnet8"))
    assert ctx.data is not None
    train = ctx.data.train
    wrong = InMemory(train.read(range(len(train))), train.labels.flip(0))
    ctx = replace(ctx, data=replace(ctx.data, train=wrong))
    assert equal(distill(student, ctx, schedule=BRIEF, loss=ONLY_TEACHER), made)


def test_the_student_comes_nearer_to_the_teacher(student: nn.Module) -> None:
    teacher = stock("cifar", "resnet8")
    ctx = context().with_reference(teacher)
    taught = distill(student, ctx, schedule=replace(BRIEF, epochs=10), loss=ONLY_TEACHER)
    images = [noise(teacher, 8)]
    target = models.predict(teacher, images).softmax(1)
    before, after = (float((models.predict(m, images).softmax(1) - target).abs().sum()) for m in (student, taught))
    assert after < before


def test_neither_student_nor_teacher_is_edited(student: nn.Module) -> None:
    teacher = stock("cifar", "resnet8")
    before = snapshot(student), snapshot(teacher)
    taught = distill(student, context().with_reference(teacher), schedule=BRIEF)
    assert same(before[0], snapshot(student))
    assert same(before[1], snapshot(teacher))
    assert models.spec_of(taught) == models.spec_of(student)


def test_no_teacher_is_refused(student: nn.Module) -> None:
    with pytest.raises(RecipeError, match="distill has no teacher"):
        distill(student, context(), schedule=BRIEF)


def test_no_images_are_refused(student: nn.Module) -> None:
    with pytest.raises(RecipeError, match="distill needs images"):
        distill(student, Context(reference=student), schedule=BRIEF)


def test_a_teacher_of_other_classes_is_refused(student: nn.Module) -> None:
    teacher = models.build(models.spec("cifar", "resnet8", 5))
    with pytest.raises(InputRefused, match="tells 5 classes apart"):
        distill(student, context().with_reference(teacher), schedule=BRIEF)


def test_a_teacher_that_is_no_file_is_refused(student: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="There is no file"):
        distill(student, context(), schedule=BRIEF, teacher=tmp_path / "missing.safetensors")
