"""BatchNorm statistics after a change: those of the images, whatever they were before."""

import copy

import torch
from torch import nn

from rescompress import data, models
from rescompress.context import Context
from rescompress.training import refresh_norms
from tests.networks import context, fused, same, snapshot, stock


def test_the_statistics_are_those_of_the_images() -> None:
    """The first BatchNorm sees the first convolution's output: its mean and variance can be worked out."""
    model, ctx = copy.deepcopy(stock("cifar", "resnet8")), context(count=64)
    before = snapshot(model)
    made = refresh_norms(model, ctx)
    assert same(before, snapshot(model))
    images = data.normalize(ctx.images("test").train.read(range(64)), models.spec_of(model).preprocessing)
    with torch.no_grad():
        seen = model.conv1(images)
    assert isinstance(made.bn1, nn.BatchNorm2d)
    assert made.bn1.running_mean is not None
    assert made.bn1.running_var is not None
    assert torch.allclose(made.bn1.running_mean, seen.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(made.bn1.running_var, seen.var((0, 2, 3)), rtol=1e-3)
    assert not any(module.training for module in made.modules())
    assert all(module.momentum == 0.1 for module in made.modules() if isinstance(module, nn.BatchNorm2d))
    assert models.spec_of(made) == models.spec_of(model)


def test_weights_are_left_alone_and_it_repeats_itself() -> None:
    model = stock("cifar", "resnet8")
    one, two = (refresh_norms(model, context()) for _ in range(2))
    for (name, mine), theirs in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), model.parameters(), strict=True))


def test_without_images_or_norms_nothing_changes() -> None:
    for model, ctx in ((stock("cifar", "resnet8"), Context()), (fused("cifar", "resnet8"), context())):
        made = refresh_norms(model, ctx)
        assert made is not model
        assert all(
            torch.equal(mine, theirs)
            for mine, theirs in zip(made.state_dict().values(), model.state_dict().values(), strict=True)
        )
