"""The stage: whom the student imitates, and what a teacher may be."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rescompress import catalog, checkpoint, graph, models
from rescompress.context import Context
from rescompress.data import InMemory
from rescompress.distillation import LOSSES, distill
from rescompress.distillation import teacher as teachers
from rescompress.errors import InputRefused, RecipeError
from rescompress.training import Schedule
from tests.networks import context, custom, noise, quantized, same, snapshot, stock

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
    with pytest.raises(InputRefused, match="teacher tells 5 classes apart, but the student 10"):
        distill(student, context().with_reference(teacher), schedule=BRIEF)


def test_a_teacher_that_is_no_file_is_refused(student: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="There is no file"):
        distill(student, context(), schedule=BRIEF, teacher=tmp_path / "missing.safetensors")


@pytest.mark.parametrize("name", [name for name in catalog.names(LOSSES.package) if name != "maps"])
@pytest.mark.parametrize("schedule", [BRIEF, replace(BRIEF, mixup=1.0, amp="bf16")])
def test_every_loss_trains_another_architecture(student: nn.Module, name: str, schedule: Schedule) -> None:
    teacher = stock("cifar", "resnet8", shortcut="B")
    before = snapshot(teacher)
    taught = distill(student, context(count=16).with_reference(teacher), schedule=schedule, loss=name)
    assert all(bool(tensor.isfinite().all()) for tensor in taught.state_dict().values())
    assert not equal(taught, student)
    assert same(before, snapshot(teacher))


@pytest.mark.parametrize("name", ["hint", "attention", "similarity", "relation"])
def test_features_teach_though_logits_do_not_count(student: nn.Module, name: str) -> None:
    teachers_of = (stock("cifar", "resnet8"), stock("cifar", "resnet8", shortcut="B"))
    loss = {name: {"alpha": 0.0}}
    made = [distill(student, context().with_reference(each), schedule=BRIEF, loss=loss) for each in teachers_of]
    assert not equal(*made)


def test_a_quantized_teacher_gives_logits_but_no_features(student: nn.Module) -> None:
    ctx = context().with_reference(quantized("cifar", "resnet8"))
    assert not equal(distill(student, ctx, schedule=BRIEF), student)
    with pytest.raises(InputRefused, match="teacher's features can't be read"):
        distill(student, ctx, schedule=BRIEF, loss="hint")


def test_the_teacher_sees_the_images_as_its_makers_normalize_them(student: nn.Module) -> None:
    teacher = stock("cifar", "resnet8")
    spec = models.spec_of(teacher)
    shifted = replace(spec.preprocessing, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3))
    other = models.describe(graph.clone(teacher), replace(spec, preprocessing=shifted))
    images = noise(teacher)
    raw = images * torch.tensor(spec.preprocessing.std).view(3, 1, 1)
    raw = raw + torch.tensor(spec.preprocessing.mean).view(3, 1, 1)
    own = (raw - torch.tensor(shifted.mean).view(3, 1, 1)) / torch.tensor(shifted.std).view(3, 1, 1)
    guide = teachers.find(None, context().with_reference(other), models.spec_of(student))
    assert torch.allclose(guide.answer(images).logits, teacher(own), atol=1e-4)


def backbone(widths: tuple[int, int], stride: int = 2, seed: int = 0) -> nn.Module:
    """Two stages and both their maps."""
    return custom_maps(_Backbone(widths, stride), seed)


class _Backbone(nn.Module):
    def __init__(self, widths: tuple[int, int], stride: int) -> None:
        super().__init__()
        sizes = [(3, widths[0], 1), (widths[0], widths[1], stride)]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, d, 3, s, 1), nn.BatchNorm2d(d), nn.ReLU(), nn.Conv2d(d, d, 3, 1, 1))
            for c, d, s in sizes
        )
        self.unused = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fine = self.stages[0](images)
        return fine, self.stages[1](fine)


def custom_maps(model: nn.Module, seed: int) -> nn.Module:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(seed))
    model = custom(model)
    return models.describe(model, replace(models.spec_of(model), output="maps", classes=0))


def distance(one: nn.Module, other: nn.Module) -> float:
    images = [noise(one, 8)]
    return float((models.predict(one, images) - models.predict(other, images)).norm())


@pytest.mark.parametrize("name", ["maps", "hint", "attention", "similarity", "relation"])
def test_networks_without_classes_learn_maps(name: str) -> None:
    student, teacher = backbone((6, 8), seed=1), backbone((6, 8), seed=2)
    ctx = context(side=8).with_reference(teacher)
    taught = distill(student, ctx, schedule=replace(BRIEF, epochs=10, lr=0.005), loss=name)
    assert distance(taught, teacher) < 0.95 * distance(student, teacher)


def test_maps_of_other_channels_leave_features_to_imitate(capsys: pytest.CaptureFixture[str]) -> None:
    student, teacher = backbone((6, 8)), backbone((12, 16))
    ctx = context(side=8).with_reference(teacher)
    assert not equal(distill(student, ctx, schedule=BRIEF, loss="hint"), student)
    assert "only features are imitated" in capsys.readouterr().err
    with pytest.raises(InputRefused, match="different channels"):
        distill(student, ctx, schedule=BRIEF, loss="maps")


def test_maps_of_another_resolution_are_refused() -> None:
    ctx = context(side=8).with_reference(backbone((6, 8), stride=1))
    with pytest.raises(InputRefused, match=r"maps are 6 x 8 x 8, 8 x 4 x 4, but the teacher's 6 x 8 x 8, 8 x 8 x 8"):
        distill(backbone((6, 8)), ctx, schedule=BRIEF, loss="hint")


@pytest.mark.parametrize(("name", "output"), [("logits", "maps"), ("dkd", "maps"), ("maps", "logits")])
def test_a_loss_that_compares_something_else_is_refused(student: nn.Module, name: str, output: str) -> None:
    model = student if output == "logits" else backbone((6, 8))
    with pytest.raises(InputRefused, match=f"The loss {name} compares .* this model gives back {output}"):
        distill(model, context(side=8).with_reference(model), schedule=BRIEF, loss=name)


def test_a_teacher_of_another_kind_is_refused(student: nn.Module) -> None:
    with pytest.raises(InputRefused, match="teacher gives back maps, and the student logits"):
        distill(student, context().with_reference(backbone((6, 8))), schedule=BRIEF, loss="hint")
