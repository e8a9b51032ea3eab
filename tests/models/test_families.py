"""Every file in rescompress/models keeps the contract: stock networks that their own weights find again."""

import functools
from typing import Any

import pytest
import torch
from torch import nn

from rescompress import catalog, models
from rescompress.models import Family, cifar, timm
from rescompress.spec import ModelSpec

NAMES = tuple(name for name in catalog.names(models.PACKAGE) if name != "builder")
"""The builder family has no networks of its own; see test_builder.py."""
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "cifar": ({"shortcut": "A"}, {"shortcut": "B"}),
    "preact": ({"last_norm": True}, {"last_norm": False}),
    "se": ({"reduction": 16}, {"reduction": 8}),
    "segmentation": ({"aux_loss": False}, {"aux_loss": True}),
    "huggingface": (
        {},
        {"embedding_size": 64, "hidden_sizes": (64, 128), "depths": (2, 2), "layer_type": "basic"},
        {"embedding_size": 32, "hidden_sizes": (32, 64), "depths": (1, 2), "layer_type": "basic"},
    ),
}
UNTOLD = {"downsample_in_first_stage", "downsample_in_bottleneck", "out_features", "eps"}
"""Arguments that leave no trace in a state dict."""


SAMPLE = {
    "cifar": ("resnet8", "resnet20", "resnet18"),
    "detection": ("fasterrcnn_resnet50_fpn",),
    "huggingface": ("ResNetForImageClassification", "ResNetBackbone"),
    "keras": ("ResNet50",),
    "preact": ("preact_resnet20", "preact_resnet18", "preact_resnet18_cifar"),
    "se": ("se_resnet20", "se_resnet18", "se_resnet50"),
    "segmentation": ("fcn_resnet50", "deeplabv3_resnet50"),
    "timm": ("resnet10t", "resnet18d", "resnet50_gn", "seresnext50_32x4d", "resnetrs50", "resnetv2_18", "resnetv2_50"),
    "torchvision": ("resnet18", "resnext50_32x4d"),
    "wide_resnet": ("wrn_16_4", "wrn_40_1"),
}
"""Networks that the default run builds; ``-m slow`` builds all."""


@functools.cache
def skeletons(name: str, whole: bool = False) -> list[tuple[ModelSpec, nn.Module]]:
    """Networks of a family, without weights."""
    family, made = models.family(name), []
    for architecture in family.ARCHITECTURES if whole else SAMPLE[name]:
        for arguments in VARIANTS.get(name, ({},)):
            if name == "cifar" and architecture in cifar.WIDE and arguments["shortcut"] == "B":
                continue
            spec = models.spec(name, architecture, classes(name, architecture), **arguments)
            made.append((spec, models.outline(spec)))
    return made


def classes(name: str, architecture: str) -> int:
    return 0 if architecture == "ResNetBackbone" else 7


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@functools.cache
def smallest(name: str) -> ModelSpec:
    """The network of a family with the fewest parameters."""
    return min(skeletons(name), key=lambda pair: sum(p.numel() for p in pair[1].parameters()))[0]


def told(spec: ModelSpec) -> tuple[Any, ...]:
    """What of a spec a state dict can tell, defaults filled in."""
    wide = spec.family == "cifar" and spec.architecture in cifar.WIDE
    arguments = {key: value for key, value in spec.arguments.items() if key not in UNTOLD and not wide}
    return spec.family, spec.architecture, spec.classes, spec.output, arguments


def test_a_family_offers_what_the_protocol_asks(name: str) -> None:
    family = models.family(name)
    assert isinstance(family, Family)
    assert len(family.ARCHITECTURES) > 0
    for stock in family.ARCHITECTURES.values():
        assert 0 < stock.preprocessing.crop <= stock.preprocessing.resize
        assert all(0 < mean < 1 for mean in stock.preprocessing.mean)
        assert all(std > 0 for std in stock.preprocessing.std)


def test_every_architecture_builds_with_the_wanted_classes(name: str) -> None:
    for spec, model in skeletons(name):
        assert {p.device.type for p in model.parameters()} == {"meta"}
        state = models.family(name).adopt(model.state_dict())
        assert models.classes_in(state, name, spec.architecture) == spec.classes, spec


@pytest.mark.slow
def test_no_two_networks_of_a_family_look_alike(name: str) -> None:
    """Else a state dict could not say which one it belongs to."""
    pairs = skeletons(name, whole=True)
    found = [shapes(model) for spec, model in pairs if spec.architecture not in timm.UNGUESSED or name != "timm"]
    assert all(one not in found[place + 1 :] for place, one in enumerate(found))


def finds_again(spec: ModelSpec, model: nn.Module) -> None:
    if spec.family == "timm" and spec.architecture in timm.UNGUESSED:
        return
    found = models.infer(model.state_dict())
    if spec.family == "huggingface" and not spec.arguments:
        assert (found.family, found.architecture) == ("huggingface", spec.architecture)
    else:
        assert told(found) == told(spec)


def test_shapes_alone_find_a_network_again(name: str) -> None:
    for spec, model in skeletons(name):
        finds_again(spec, model)


@pytest.mark.slow
def test_shapes_alone_find_every_network_again(name: str) -> None:
    for spec, model in skeletons(name, whole=True):
        finds_again(spec, model)


def test_a_twin_of_torchvision_is_said_to_be_torchvision() -> None:
    model = models.outline(models.spec("timm", "resnet50", 7))
    assert str(models.infer(model.state_dict())) == "torchvision resnet50, 7 classes"


def test_adopting_own_names_changes_nothing(name: str) -> None:
    state = skeletons(name)[0][1].state_dict()
    assert list(models.family(name).adopt(state)) == list(state)


def test_a_network_maps_images_to_rows(name: str) -> None:
    spec = smallest(name)
    rows = models.predict(models.build(spec), [torch.randn(2, 3, 64, 64)])
    assert rows.shape[0] == 2
    assert rows.shape[1] == 7 or spec.output == "maps"


def test_equal_seeds_give_equal_weights(name: str) -> None:
    spec = smallest(name)
    one, same, other = (models.build(spec, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, same[key]) for key, tensor in one.items())
    weights = [key for key, tensor in one.items() if tensor.dim() > 1 and tensor.any()]
    assert not any(torch.equal(one[key], other[key]) for key in weights)


def test_building_leaves_the_global_generator_as_it_was(name: str) -> None:
    spec = smallest(name)
    before = torch.get_rng_state()
    models.build(spec, 5)
    assert torch.equal(torch.get_rng_state(), before)
