"""Gradients for importances: those of the loss, of few images, and nothing is moved by looking."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rescompress import data, models
from rescompress.context import Context
from rescompress.errors import InputRefused, RecipeError
from rescompress.pruning import evidence
from rescompress.pruning.evidence import Evidence, evidence_for, gather
from tests.networks import context, same, snapshot, stock

IMAGES = 24


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return stock("cifar", "resnet8")


@pytest.fixture(scope="module")
def found(model: nn.Module) -> Evidence:
    return gather(model, context(), images=IMAGES)


def equal(one: Evidence, other: Evidence) -> bool:
    pairs = [(one.squares, other.squares), (one.gates, other.gates)]
    return all(torch.equal(tensor, theirs[key]) for mine, theirs in pairs for key, tensor in mine.items())


def test_squares_and_gates_are_those_of_each_batch(model: nn.Module, found: Evidence) -> None:
    twin, ctx = copy.deepcopy(model), context()
    split = ctx.images("test").train
    chosen = torch.randperm(len(split), generator=ctx.generator("importance"))[:IMAGES].tolist()
    squares, gates = 0.0, []
    conv = twin.layer2[0].conv1.weight
    for start in range(0, IMAGES, evidence.BATCH):
        rows = chosen[start : start + evidence.BATCH]
        images = data.normalize(split.read(rows), models.spec_of(model).preprocessing)
        loss = F.cross_entropy(twin(images), split.labels[rows])
        (g,) = torch.autograd.grad(loss, [conv])
        squares = squares + len(rows) * g**2 / IMAGES
        products = g * conv.detach()
        made = [float(products[o].sum()) for o in range(32)]
        gates.append([made, [float(products[:, i].sum()) for i in range(16)]])
    assert torch.allclose(found.squares["layer2.0.conv1.weight"], squares, rtol=1e-4)
    made, read = (found.gates["layer2.0.conv1.weight", side] for side in ("outputs", "inputs"))
    assert torch.allclose(made, torch.tensor([batch[0] for batch in gates]), atol=1e-5)
    assert torch.allclose(read, torch.tensor([batch[1] for batch in gates]), atol=1e-5)


def test_every_parameter_has_its_square_and_no_buffer_has(model: nn.Module, found: Evidence) -> None:
    shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
    assert {name: tensor.shape for name, tensor in found.squares.items()} == shapes
    assert {name for name, _ in found.gates} == set(shapes)


def test_equal_seeds_find_the_same_and_others_other_images(model: nn.Module, found: Evidence) -> None:
    assert equal(gather(model, context(), images=IMAGES), found)
    assert not equal(gather(model, context(seed=1), images=IMAGES), found)


def test_looking_moves_nothing(model: nn.Module, found: Evidence) -> None:
    training = copy.deepcopy(model).train()
    training.conv1.weight.requires_grad_(False)
    before, state = snapshot(training), torch.get_rng_state()
    assert equal(gather(training, context(), images=IMAGES), found), "the mode shows"
    assert same(before, snapshot(training))
    assert all(parameter.grad is None for parameter in training.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_images_are_read_only_where_gradients_are(model: nn.Module) -> None:
    assert evidence_for("l1", model, Context(seed=3)) == Evidence(3)
    assert evidence_for("obd", model, context()).squares
    with pytest.raises(RecipeError, match="needs images"):
        evidence_for("obd", model, Context())


def test_maps_have_no_loss(model: nn.Module) -> None:
    backbone = models.describe(copy.deepcopy(model), replace(models.spec_of(model), output="maps"))
    with pytest.raises(InputRefused, match="gives back maps"):
        gather(backbone, context())
