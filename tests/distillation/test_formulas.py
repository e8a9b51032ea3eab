"""Each loss against its paper's formula, written out image by image."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rescompress.distillation import LOSSES
from rescompress.distillation.answers import Answer
from rescompress.distillation.losses import dkd, hint, relation
from tests.distillation.batches import BATCH, LABELS, answer, batch_of, draw, logits


def features_only(name: str, **knobs: float) -> float:
    """What the features add to the outputs' part, for answers whose channels differ."""
    student, teacher = answer(0, channels=5), answer(1, channels=7)
    loss = LOSSES.bind({name: {"alpha": 0.0, **knobs}})
    return float(loss(student, teacher, BATCH) - F.cross_entropy(student.logits, LABELS))


def pairs_of_features() -> list[tuple[Tensor, Tensor]]:
    student, teacher = answer(0, channels=5), answer(1, channels=7)
    return [(s.double(), t.double()) for s, t in zip(student.features, teacher.features, strict=True)]


@given(st.integers(0, 2**32), st.floats(0.5, 20), st.floats(0, 1))
def test_softened_logits(seed: int, temperature: float, alpha: float) -> None:
    z, v = logits(seed).double(), logits(seed + 1).double()
    p, q = (z / temperature).softmax(1), (v / temperature).softmax(1)
    divergence = (q * (q / p).log()).sum(1).mean()
    expected = alpha * temperature**2 * divergence + (1 - alpha) * F.cross_entropy(z, LABELS)
    loss = LOSSES.bind({"logits": {"temperature": temperature, "alpha": alpha}})
    assert torch.allclose(
        loss(Answer((z.float(),)), Answer((v.float(),)), BATCH).double(), expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("target", [torch.tensor([3, 0, 9, 1, 1, 5]), logits(5).softmax(1)])
def test_decoupled(target: Tensor) -> None:
    z, v, temperature, alpha, beta = logits(0), logits(1), 3.0, 0.7, 5.0
    total = 0.0
    for image in range(6):
        y = int(target[image] if target.dim() == 1 else target[image].argmax())
        p, q = ((each[image].double() / temperature).softmax(0).tolist() for each in (z, v))
        others = [k for k in range(10) if k != y]
        tckd = q[y] * math.log(q[y] / p[y]) + (1 - q[y]) * math.log((1 - q[y]) / (1 - p[y]))
        p_hat, q_hat = ({k: each[k] / (1 - each[y]) for k in others} for each in (p, q))
        nckd = sum(q_hat[k] * math.log(q_hat[k] / p_hat[k]) for k in others)
        total += temperature**2 * (alpha * tckd + beta * nckd) / 6
    knobs = {"alpha": alpha, "beta": beta, "temperature": temperature, "labels": 0.5, "warmup": 0.0}
    found = LOSSES.bind({"dkd": knobs})(Answer((z,)), Answer((v,)), batch_of(target))
    assert float(found) == pytest.approx(total + 0.5 * float(F.cross_entropy(z, target)), rel=1e-4)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(2, 12))
def test_decoupled_parts_make_up_softened_logits(seed: int, classes: int) -> None:
    z, v = logits(seed, classes=classes).double(), logits(seed + 1, classes=classes).double()
    target = F.one_hot(LABELS % classes, classes).bool()
    tckd, nckd = dkd.parts(z, v, target)
    whole = F.kl_div(z.log_softmax(1), v.log_softmax(1), reduction="none", log_target=True).sum(1)
    assert torch.allclose(whole, tckd + (1 - v.softmax(1)[target]) * nckd, atol=1e-9)


def test_decoupled_warms_up() -> None:
    loss = LOSSES.bind({"dkd": {"labels": 0.0, "warmup": 0.5}})
    values = [float(loss(answer(0), answer(1), batch_of(LABELS, step, 8))) for step in range(8)]
    assert values[:4] == pytest.approx([values[-1] * share for share in (0.25, 0.5, 0.75, 1.0)])
    assert values[4:] == [values[-1]] * 4


def test_attention() -> None:
    total = 0.0
    for student, teacher in pairs_of_features():
        errors = []
        for image in range(6):
            maps = []
            for feature in (student, teacher):
                q = [float((column**2).sum()) for column in feature[image].flatten(1).T]
                length = math.sqrt(sum(value**2 for value in q))
                maps.append([value / length for value in q])
            errors += [(a - b) ** 2 for a, b in zip(*maps, strict=True)]
        total += sum(errors) / len(errors)
    assert features_only("attention", beta=800.0) == pytest.approx(400 * total, rel=1e-4)


def test_similarity() -> None:
    total = 0.0
    for pair in pairs_of_features():
        grams = []
        for feature in pair:
            rows = [[float((a * b).sum()) for b in feature] for a in feature]
            grams.append([[value / math.hypot(*row) for value in row] for row in rows])
        total += sum((grams[0][i][j] - grams[1][i][j]) ** 2 for i in range(6) for j in range(6)) / 36
    assert features_only("similarity", gamma=500.0) == pytest.approx(500 * total, rel=1e-4)


def huber(a: float, b: float) -> float:
    gap = abs(a - b)
    return gap**2 / 2 if gap <= 1 else gap - 0.5


@pytest.mark.parametrize("angles", [False, True])
def test_relation(angles: bool) -> None:
    pooled = [feature.mean((2, 3)) for feature in pairs_of_features()[-1]]
    found: list[list[float]] = []
    for x in pooled:
        if angles:
            triples = itertools.permutations(range(6), 3)
            found.append([float(F.cosine_similarity(x[i] - x[j], x[k] - x[j], dim=0)) for i, j, k in triples])
        else:
            far = [float((x[i] - x[j]).norm()) for i, j in itertools.permutations(range(6), 2)]
            found.append([value / (sum(far) / len(far)) for value in far])
    expected = sum(map(huber, *found)) / len(found[0])
    weights = {"distance": 0.0, "angle": 30.0} if angles else {"distance": 30.0, "angle": 0.0}
    assert features_only("relation", **weights) == pytest.approx(30 * expected, rel=1e-3)


def test_relation_of_a_large_batch_takes_the_first_images_angles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relation, "TRIPLES_OF", 4)
    far, cosines = relation.relations(draw(0, 9, 5, 2, 2))
    assert far.shape == (9, 9)
    assert cosines.shape == (4, 4, 4)


def test_hint_compares_regressed_features() -> None:
    student, teacher = answer(0, channels=5), answer(1, channels=7)
    regressors = hint.helper([5, 5], [7, 7])
    torch.nn.init.normal_(regressors.convs[0].weight)
    torch.nn.init.normal_(regressors.convs[1].bias)
    total = 0.0
    for conv, (s, t) in zip(regressors.convs, pairs_of_features(), strict=True):
        seen = torch.einsum("bchw,dc->bdhw", s, conv.weight[:, :, 0, 0].detach().double())
        seen = seen + conv.bias.detach().view(-1, 1, 1)
        total += float(((seen - t) ** 2).sum() / (t**2).sum()) / 2
    seen = Answer(student.outputs, regressors(student.features))
    value = LOSSES.bind({"hint": {"alpha": 0.0, "weight": 10.0}})(seen, teacher, BATCH)
    assert float(value.detach()) == pytest.approx(10 * total + float(F.cross_entropy(student.logits, LABELS)), rel=1e-4)
    value.backward()
    assert all(parameter.grad is not None for parameter in regressors.parameters())


def test_regressors_start_by_passing_on() -> None:
    features = answer(0).features
    assert all(map(torch.equal, hint.helper([5, 5], [5, 5])(features), features))


def test_maps() -> None:
    student, teacher = answer(0, kind="maps"), answer(1, kind="maps")
    errors = [float((s - t).norm() / t.norm()) ** 2 for s, t in zip(student.outputs, teacher.outputs, strict=True)]
    assert float(LOSSES.bind("maps")(student, teacher, BATCH)) == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_without_the_teacher_only_the_labels_count() -> None:
    loss = LOSSES.bind({"logits": {"alpha": 0.0}})
    assert torch.allclose(loss(answer(0), answer(1), BATCH), F.cross_entropy(answer(0).logits, LABELS))
