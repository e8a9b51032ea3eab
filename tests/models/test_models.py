"""What a model carries, and how one is told from another."""

import copy

import pytest
import torch
from torch import nn

from rescompress import models
from rescompress.errors import InputRefused, RecipeError
from rescompress.models._undrawn import Undrawn
from rescompress.spec import ModelSpec, Preprocessing
from tests.networks import captured, noise, stock

SPEC = ModelSpec("none", "none", 3, Preprocessing(8, 8, (0, 0, 0), (1, 1, 1)))


def test_a_described_model_carries_its_spec_through_copies() -> None:
    layer = nn.Linear(3, 3)
    state = dict(layer.state_dict())
    assert models.describe(layer, SPEC) is layer
    assert models.spec_of(copy.deepcopy(layer)) == SPEC
    assert dict(layer.state_dict()).keys() == state.keys()


def test_a_captured_model_carries_its_spec() -> None:
    assert models.spec_of(captured("cifar", "resnet8")).architecture == "resnet8"


def test_a_model_from_elsewhere_is_refused() -> None:
    with pytest.raises(InputRefused, match="Linear doesn't say which stock network it is"):
        models.spec_of(nn.Linear(3, 3))


def test_a_spec_reads_like_a_name() -> None:
    spec = models.spec("cifar", "resnet20", 10, shortcut="B")
    assert str(spec) == "cifar resnet20, 10 classes"
    assert spec.input_shape == (3, 32, 32)
    assert spec.arguments == {"shortcut": "B"}


@pytest.mark.parametrize(
    ("family", "architecture", "said"),
    [("cifr", "resnet20", "Did you mean 'cifar'"), ("cifar", "resnet22", "Did you mean"), ("cifar", "vgg", "one of")],
)
def test_an_unknown_network_is_told_its_neighbour(family: str, architecture: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        models.spec(family, architecture, 10)


@pytest.mark.parametrize("state", [{}, {"conv1.weight": torch.zeros(1, 3, 3, 3)}])
def test_weights_of_no_network_are_refused(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(InputRefused, match="fit no network"):
        models.infer(state)


def test_the_shortcut_tells_the_variants_apart() -> None:
    for shortcut in "AB":
        state = stock("cifar", "resnet8", shortcut=shortcut).state_dict()
        assert models.infer(state).arguments == {"shortcut": shortcut}


def test_predicting_changes_nothing_and_gathers_batches() -> None:
    model = copy.deepcopy(stock("cifar", "resnet8")).train()
    statistics = model.bn1.running_mean.clone()
    images = noise(model, 5)
    logits = models.predict(model, [images[:2], images[2:]])
    assert model.training
    assert torch.equal(model.bn1.running_mean, statistics)
    assert not logits.requires_grad
    assert torch.allclose(logits, models.predict(model, [images]), atol=1e-5)


@pytest.mark.parametrize("family", ["cifar", "timm"])
def test_a_network_that_waits_for_its_weights_draws_none(family: str) -> None:
    spec = models.spec(family, "resnet20" if family == "cifar" else "resnet18", 10)
    before = torch.get_rng_state()
    with Undrawn():
        models.family(family).build(spec.architecture, 10)
    assert torch.equal(torch.get_rng_state(), before)
    empty = models.build_empty(spec)
    assert models.spec_of(empty) == spec
    assert not empty.training
    whole = models.build(spec).state_dict()
    assert {name: tensor.shape for name, tensor in empty.state_dict().items()} == {
        name: tensor.shape for name, tensor in whole.items()
    }
    empty.load_state_dict(whole)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in empty.state_dict().items())
