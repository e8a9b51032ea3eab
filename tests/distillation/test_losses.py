"""Every file in rescompress/distillation/losses keeps the contract: least where student and teacher agree."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rescompress import catalog, knobs
from rescompress.distillation import LOSSES

NAMES = catalog.names(LOSSES.package)


def imitation_only(name: str) -> dict[str, dict[str, Any]]:
    """The loss without its share for the labels, if it has one."""
    entry = catalog.load(LOSSES.package, name).loss
    return {name: {"alpha": 1.0} if "alpha" in {knob.name for knob in knobs.knobs(entry)} else {}}


def logits(seed: int, batch: int = 6, classes: int = 10) -> torch.Tensor:
    return 3 * torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(6)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32), away=st.floats(0.01, 10))
def test_it_is_least_where_the_student_is_the_teacher(name: str, seed: int, away: float) -> None:
    loss, teacher = LOSSES.bind(imitation_only(name)), logits(seed)
    agreed = loss(teacher.clone(), teacher, LABELS)
    assert abs(float(agreed)) < 1e-5
    assert loss(teacher + away * logits(seed + 1), teacher, LABELS) > agreed


@pytest.mark.parametrize("name", NAMES)
def test_its_gradient_leads_the_student_to_the_teacher(name: str) -> None:
    loss, teacher = LOSSES.bind(imitation_only(name)), logits(0)
    student = logits(1).requires_grad_()
    values = []
    for _ in range(50):
        value = loss(student, teacher, LABELS)
        (gradient,) = torch.autograd.grad(value, student)
        student = (student - gradient).detach().requires_grad_()
        values.append(float(value.detach()))
    assert values[-1] < 0.3 * values[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e4])
def test_it_is_finite_for_any_logits(name: str, size: float) -> None:
    student = (size * logits(0)).requires_grad_()
    value = LOSSES.bind(name)(student, size * logits(1), LABELS)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.shape == ()
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_mean_over_the_batch(name: str) -> None:
    student, teacher = logits(0), logits(1)
    loss = LOSSES.bind(name)
    twice = loss(*(torch.cat([part, part]) for part in (student, teacher, LABELS)))
    assert torch.allclose(loss(student, teacher, LABELS), twice)


@given(st.integers(0, 2**32), st.floats(0.5, 20), st.floats(0, 1))
def test_softened_logits_follow_the_papers_formula(seed: int, temperature: float, alpha: float) -> None:
    z, v = logits(seed).double(), logits(seed + 1).double()
    p, q = (z / temperature).softmax(1), (v / temperature).softmax(1)
    divergence = (q * (q / p).log()).sum(1).mean()
    expected = alpha * temperature**2 * divergence + (1 - alpha) * F.cross_entropy(z, LABELS)
    loss = LOSSES.bind({"logits": {"temperature": temperature, "alpha": alpha}})
    assert torch.allclose(loss(z.float(), v.float(), LABELS).double(), expected, rtol=1e-3, atol=1e-4)


def test_without_the_teacher_only_the_labels_count() -> None:
    loss = LOSSES.bind({"logits": {"alpha": 0.0}})
    assert torch.allclose(loss(logits(0), logits(1), LABELS), F.cross_entropy(logits(0), LABELS))
