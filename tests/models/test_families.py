"""Every file in rescompress/models keeps the contract: stock networks that their own weights find again."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from rescompress import catalog, models
from rescompress.models import Family
from rescompress.spec import ModelSpec

NAMES = catalog.names(models.PACKAGE)


def variants(family: Family) -> tuple[dict[str, Any], ...]:
    return getattr(family, "VARIANTS", ({},))


@cache
def skeletons(name: str) -> list[tuple[ModelSpec, nn.Module]]:
    """Every network of a family, without weights."""
    family, made = models.family(name), []
    for architecture in family.ARCHITECTURES:
        for arguments in variants(family):
            with torch.device("meta"):
                model = family.build(architecture, 7, **arguments)
            made.append((models.spec(name, architecture, 7, **arguments), model))
    return made


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def smallest(name: str) -> list[ModelSpec]:
    """The two networks of a family with the fewest parameters, in all variants."""
    size = {spec.architecture: sum(p.numel() for p in model.parameters()) for spec, model in skeletons(name)}
    chosen = sorted(size, key=lambda architecture: size[architecture])[:2]
    return [spec for spec, _ in skeletons(name) if spec.architecture in chosen]


def test_a_family_offers_what_the_protocol_asks(name: str) -> None:
    family = models.family(name)
    assert isinstance(family, Family)
    assert len(set(family.ARCHITECTURES)) == len(family.ARCHITECTURES) > 0
    preprocessing = family.PREPROCESSING
    assert 0 < preprocessing.crop <= preprocessing.resize
    assert all(0 < mean < 1 for mean in preprocessing.mean)
    assert all(std > 0 for std in preprocessing.std)


def test_every_architecture_builds_with_the_wanted_classes(name: str) -> None:
    for spec, model in skeletons(name):
        assert {p.device.type for p in model.parameters()} == {"meta"}
        classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        assert classifier.out_features == 7, spec


def test_no_two_networks_of_a_family_look_alike(name: str) -> None:
    """Else a state dict could not say which one it belongs to."""
    found = [shapes(model) for _, model in skeletons(name)]
    assert all(one not in found[place + 1 :] for place, one in enumerate(found))


def test_weights_find_their_network_again(name: str) -> None:
    for spec in smallest(name):
        assert models.infer(models.build(spec).state_dict()) == spec


def test_renaming_own_names_changes_nothing(name: str) -> None:
    rename = models.family(name).rename
    for key in models.build(smallest(name)[0]).state_dict():
        assert rename(key) == key
        assert rename(f"module.{key}") == key


def test_a_network_maps_images_to_logits(name: str) -> None:
    model = models.build(smallest(name)[0])
    assert models.predict(model, [torch.randn(2, 3, 64, 64)]).shape == (2, 7)


def test_equal_seeds_give_equal_weights(name: str) -> None:
    spec = smallest(name)[0]
    one, same, other = (models.build(spec, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, same[key]) for key, tensor in one.items())
    weights = [key for key, tensor in one.items() if tensor.dim() > 1]
    assert not any(torch.equal(one[key], other[key]) for key in weights)


def test_building_leaves_the_global_generator_as_it_was(name: str) -> None:
    spec = smallest(name)[0]
    before = torch.get_rng_state()
    models.build(spec, 5)
    assert torch.equal(torch.get_rng_state(), before)
