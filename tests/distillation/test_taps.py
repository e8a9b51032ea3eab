"""Features are read where stages end, in any network, and nothing stays behind."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from rescompress import graph, models
from rescompress.context import Context
from rescompress.distillation import taps
from rescompress.errors import InputRefused
from rescompress.pruning import prune
from tests.networks import custom, noise, quantized, stock

STAGES = ("layer1", "layer2", "layer3")
FOUND = {
    ("cifar", "resnet8", 32): dict(zip((32, 16, 8), STAGES, strict=True)),
    ("cifar", "resnet18", 32): dict(zip((32, 16, 8, 4), (*STAGES, "layer4"), strict=True)),
    ("preact", "preact_resnet20", 32): dict(zip((32, 16, 8), STAGES, strict=True)),
    ("se", "se_resnet20", 32): dict(zip((32, 16, 8), STAGES, strict=True)),
    ("wide_resnet", "wrn_16_4", 32): dict(zip((32, 16, 8), ("block1", "block2", "block3"), strict=True)),
    ("torchvision", "resnet18", 64): dict(zip((16, 8, 4, 2), (*STAGES, "layer4"), strict=True)),
}
TIMM = {
    "resnet26t": {32: "conv1", 16: "layer1", 8: "layer2", 4: "layer3", 2: "layer4"},
    "seresnet50": {16: "layer1", 8: "layer2", 4: "layer3", 2: "layer4"},
    "resnetv2_50": {16: "stages.0", 8: "stages.1", 4: "stages.2", 2: "stages"},
}


def by_side(model: nn.Module, side: int) -> dict[int, str]:
    return {size[0]: tap.module for size, tap in taps.find(model, (3, side, side)).items()}


@pytest.mark.parametrize(("family", "architecture", "side"), FOUND)
def test_stages_are_found(family: str, architecture: str, side: int) -> None:
    model = models.build(models.spec(family, architecture, 10))
    assert by_side(model, side) == FOUND[family, architecture, side]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TIMM)
def test_stages_of_timms_networks_are_found(architecture: str) -> None:
    assert by_side(models.build(models.spec("timm", architecture, 10)), 64) == TIMM[architecture]


def test_pruned_and_factorized_students_have_the_same_stages() -> None:
    whole = stock("cifar", "resnet8")
    thin = prune(whole, Context(), ratio=0.5)
    for name, conv in [each for each in thin.named_modules() if isinstance(each[1], nn.Conv2d)]:
        tall = nn.Conv2d(conv.in_channels, 4, (3, 1), (conv.stride[0], 1), (1, 0))
        thin.set_submodule(
            name, nn.Sequential(tall, nn.Conv2d(4, conv.out_channels, (1, 3), (1, conv.stride[1]), (0, 1)))
        )
    pairs = taps.pair(thin, whole, (3, 32, 32))
    assert [tap.module for tap in pairs.student] == [tap.module for tap in pairs.teacher] == list(STAGES)
    assert pairs.student[-1].channels < pairs.teacher[-1].channels == 64


def test_another_architecture_pairs_at_four_sizes() -> None:
    student, teacher = (models.build(models.spec("torchvision", name, 10)) for name in ("resnet18", "resnet50"))
    pairs = taps.pair(student, teacher, (3, 64, 64))
    assert [tap.size for tap in pairs.student] == [tap.size for tap in pairs.teacher] == [(s, s) for s in (16, 8, 4, 2)]
    assert [tap.channels for tap in pairs.student] == [64, 128, 256, 512]
    assert [tap.channels for tap in pairs.teacher] == [256, 512, 1024, 2048]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def check_reading(model: nn.Module, wrapped: nn.Module) -> None:
    found = tuple(taps.find(model, (3, 32, 32)).values())
    images = noise(model)
    with taps.reading(wrapped, found) as features:
        wrapped(images)
    x = torch.relu(model.bn1(model.conv1(images)))
    for name, feature in zip(STAGES, features, strict=True):
        x = model.get_submodule(name)(x)
        assert torch.equal(feature, x)


def test_what_is_read_is_what_the_module_made() -> None:
    model = stock("cifar", "resnet8")
    check_reading(model, model)
    check_reading(model, graph.clone(model))


@pytest.mark.usefixtures("alone")
def test_features_of_a_parallel_module_are_read() -> None:
    model = stock("cifar", "resnet8")
    check_reading(model, nn.parallel.DistributedDataParallel(graph.clone(model)).eval())


def test_nothing_stays_hooked_or_alive() -> None:
    model = models.build(models.spec("cifar", "resnet8", 10))
    found = tuple(taps.find(model, (3, 32, 32)).values())
    with taps.reading(model, found) as features:
        model(noise(model))
    kept = weakref.ref(features[0])
    del features
    gc.collect()
    assert kept() is None
    with pytest.raises(TypeError), taps.reading(model, found):
        model(None)
    assert not any(module._forward_hooks for module in model.modules())


def test_no_size_in_common_is_refused() -> None:
    odd = custom(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, 5), nn.Conv2d(4, 4, 1)), nn.Flatten()), 32)
    with pytest.raises(InputRefused, match="features are 32 x 32, 16 x 16, 8 x 8 large, but the teacher's 6 x 6"):
        taps.pair(stock("cifar", "resnet8"), odd, (3, 32, 32))


def test_a_graph_without_modules_is_refused() -> None:
    with pytest.raises(InputRefused, match="teacher's features can't be read"):
        taps.pair(stock("cifar", "resnet8"), quantized("cifar", "resnet8"), (3, 32, 32))
