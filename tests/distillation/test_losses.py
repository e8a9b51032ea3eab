"""Every file in rescompress/distillation/losses keeps the contract: least where student and teacher agree."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rescompress import catalog
from rescompress.distillation import LOSSES
from rescompress.distillation.answers import Answer
from tests.distillation.batches import BATCH, LABELS, answer, batch_of, tensors, tracked

NAMES = catalog.names(LOSSES.package)
READS = {name: catalog.load(LOSSES.package, name).READS for name in NAMES}
PAIRWISE = [name for name in NAMES if name not in ("similarity", "relation")]
"""Losses of one image at a time, so that a batch twice over has the same mean."""
KIND = {name: "maps" if READS[name] == "maps" else "logits" for name in NAMES}
CASES = [(name, KIND[name]) for name in NAMES] + [(name, "maps") for name in NAMES if READS[name] == "features"]
WITHOUT_LABELS: dict[str, dict[str, Any]] = {"dkd": {"labels": 0.0}, "maps": {}}


def imitation(name: str) -> Callable[..., Tensor]:
    """The loss without its share for the labels."""
    return LOSSES.bind({name: WITHOUT_LABELS.get(name, {"alpha": 1.0})})


def moved(one: Answer, other: Answer, away: float) -> Answer:
    """The one answer, changed by a multiple of the other."""
    outputs = tuple(a + away * b for a, b in zip(one.outputs, other.outputs, strict=True))
    features = tuple(a + away * b for a, b in zip(one.features, other.features, strict=True))
    return replace(one, outputs=outputs, features=features)


def test_every_file_says_what_it_reads() -> None:
    assert set(READS.values()) == {"logits", "features", "maps"}


@pytest.mark.parametrize(("name", "kind"), CASES)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), away=st.floats(0.01, 10))
def test_it_is_least_where_the_student_is_the_teacher(name: str, kind: str, seed: int, away: float) -> None:
    loss, teacher = imitation(name), answer(seed, kind=kind)
    student = tracked(teacher)
    agreed = loss(student, teacher, BATCH)
    assert abs(float(agreed.detach())) < 1e-5
    assert loss(moved(teacher, answer(seed + 1, kind=kind), away), teacher, BATCH) > agreed
    gradients = torch.autograd.grad(agreed, tensors(student), allow_unused=True)
    assert all(part is None or float(part.abs().max()) < 1e-4 for part in gradients)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_its_gradient_leads_the_student_to_the_teacher(name: str, kind: str) -> None:
    loss, teacher = imitation(name), answer(0, kind=kind)
    student = tracked(answer(1, kind=kind))
    optimizer = torch.optim.Adam(tensors(student), lr=0.1)
    values = []
    for _ in range(60):
        value = loss(student, teacher, BATCH)
        values.append(float(value.detach()))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert values[-1] < 0.4 * values[0]


@pytest.mark.parametrize("name", [name for name in NAMES if READS[name] == "features"])
def test_it_reads_features(name: str) -> None:
    student = tracked(answer(1))
    gradients = torch.autograd.grad(imitation(name)(student, answer(0), BATCH), student.features, allow_unused=True)
    assert all(float(part.abs().sum()) > 0 for part in (gradients[-1:] if name == "relation" else gradients))


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e4])
def test_it_is_finite_for_any_answers(name: str, kind: str, size: float) -> None:
    student = tracked(answer(0, kind=kind, scale=size))
    value = LOSSES.bind(name)(student, answer(1, kind=kind, scale=size), BATCH)
    gradients = torch.autograd.grad(value, tensors(student), allow_unused=True)
    assert value.shape == ()
    assert value.isfinite()
    assert all(part is None or bool(part.isfinite().all()) for part in gradients)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_it_is_finite_where_all_images_are_one(name: str, kind: str) -> None:
    def alike(seed: int) -> Answer:
        one = answer(seed, batch=1, kind=kind)
        outputs, features = (tuple(each.repeat_interleave(6, 0) for each in p) for p in (one.outputs, one.features))
        return Answer(outputs, features, one.kind)

    student = tracked(alike(0))
    value = LOSSES.bind(name)(student, alike(1), BATCH)
    gradients = torch.autograd.grad(value, tensors(student), allow_unused=True)
    assert value.isfinite()
    assert all(part is None or bool(part.isfinite().all()) for part in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_two_images_are_enough(name: str) -> None:
    student, teacher = answer(0, batch=2, kind=KIND[name]), answer(1, batch=2, kind=KIND[name])
    assert LOSSES.bind(name)(student, teacher, batch_of(LABELS[:2])).isfinite()


@pytest.mark.parametrize("name", PAIRWISE)
def test_it_is_a_mean_over_the_batch(name: str) -> None:
    student, teacher, loss = answer(0, kind=KIND[name]), answer(1, kind=KIND[name]), LOSSES.bind(name)

    def twice(one: Answer) -> Answer:
        outputs, features = (tuple(torch.cat([each, each]) for each in p) for p in (one.outputs, one.features))
        return Answer(outputs, features, one.kind)

    doubled = loss(twice(student), twice(teacher), batch_of(LABELS.repeat(2)))
    assert torch.allclose(loss(student, teacher, BATCH), doubled)


@pytest.mark.parametrize("name", [name for name in NAMES if READS[name] != "maps"])
def test_soft_targets_that_are_sure_are_labels(name: str) -> None:
    soft = batch_of(F.one_hot(LABELS, 10).float())
    student, teacher, loss = answer(0), answer(1), LOSSES.bind(name)
    assert torch.allclose(loss(student, teacher, soft), loss(student, teacher, BATCH))


@pytest.mark.parametrize("name", [name for name in NAMES if READS[name] == "features"])
def test_without_weight_features_do_not_matter(name: str) -> None:
    weights = {"hint": ["weight"], "attention": ["beta"], "similarity": ["gamma"], "relation": ["distance", "angle"]}
    loss = LOSSES.bind({name: dict.fromkeys(weights[name], 0.0) | {"alpha": 0.3, "temperature": 2.0}})
    plain = LOSSES.bind({"logits": {"alpha": 0.3, "temperature": 2.0}})
    assert torch.allclose(loss(answer(0), answer(1), BATCH), plain(answer(0), answer(1), BATCH))
