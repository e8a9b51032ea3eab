"""Folding is arithmetic, so it is checked as arithmetic: no output may move by more than rounding."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rescompress import models
from rescompress.context import Context
from rescompress.fusion import fold, foldable, fuse
from tests.networks import custom, fused, noise, same, snapshot, stock

ROUNDING = 1e-6


@dataclass
class Case:
    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    x: Tensor


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any convolution that PyTorch accepts on a small image, and any BatchNorm behind it."""
    groups = draw(st.integers(1, 3))
    sides = st.integers(1, 3)
    conv = nn.Conv2d(
        groups * draw(sides),
        groups * draw(sides),
        kernel_size=(draw(sides), draw(sides)),
        stride=(draw(sides), draw(sides)),
        padding=(draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "circular"])),
    )
    eps, affine = draw(st.sampled_from([1e-8, 1e-5, 1e-3, 1.0])), draw(st.booleans())
    norm = nn.BatchNorm2d(conv.out_channels, eps=eps, affine=affine)
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    with torch.no_grad():
        for parameter in [*conv.parameters(), *norm.parameters()]:
            parameter.normal_(0, draw(st.sampled_from([1e-2, 1.0, 1e2])), generator=g)
        norm.running_mean.normal_(0, draw(st.sampled_from([0.0, 1.0, 1e2])), generator=g)
        norm.running_var.uniform_(0, draw(st.sampled_from([0.0, 1e-4, 1.0, 1e3])), generator=g)
    x = torch.randn(2, conv.in_channels, draw(st.integers(5, 8)), draw(st.integers(5, 8)), generator=g)
    return Case(conv, norm.eval(), x)


def magnitude(case: Case) -> Tensor:
    """What each output would be if nothing cancelled, so that rounding has something to be relative to."""
    conv, norm = copy.deepcopy(case.conv).double(), copy.deepcopy(case.norm).double()
    conv.weight.abs_()
    bias = 0 if conv.bias is None else conv.bias.abs().view(-1, 1, 1)
    conv.bias = None
    gain = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.abs())
    shift = 0 if norm.bias is None else norm.bias.abs().view(-1, 1, 1)
    return (conv(case.x.abs().double()) + bias + norm.running_mean.abs().view(-1, 1, 1)) * gain.view(-1, 1, 1) + shift


@given(cases())
@torch.no_grad()
def test_folding_equals_convolution_then_batch_norm(case: Case) -> None:
    expected = copy.deepcopy(case.norm).double()(copy.deepcopy(case.conv).double()(case.x.double()))
    tolerance = ROUNDING * magnitude(case)
    fold(case.conv, case.norm)
    assert ((case.conv(case.x) - expected).abs() <= tolerance).all()


NETWORKS: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
    "cifar resnet8 A": (("cifar", "resnet8"), {}),
    "cifar resnet8 B": (("cifar", "resnet8"), {"shortcut": "B"}),
    "torchvision resnet18": (("torchvision", "resnet18"), {"side": 64}),
    "cifar resnet20 A": (("cifar", "resnet20"), {}),
    "cifar resnet20 B": (("cifar", "resnet20"), {"shortcut": "B"}),
    "torchvision resnet50": (("torchvision", "resnet50"), {"classes": 1000}),
}
LARGE = ("cifar resnet20 A", "cifar resnet20 B", "torchvision resnet50")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in NETWORKS]
)
def test_a_fused_network_answers_like_the_whole_one(name: str) -> None:
    names, arguments = NETWORKS[name]
    whole, folded = (make(*names, **arguments) for make in (stock, fused))
    images = noise(whole, side=64)
    expected, answer = (models.predict(model, [images]) for model in (whole, folded))
    assert (answer - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert models.spec_of(folded) == models.spec_of(whole)


class Plain(nn.Module):
    """A convolution, a BatchNorm that can fold, one that can't, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.bn2(self.bn1(self.conv(images)).relu()).mean((2, 3)))


def test_the_argument_is_not_edited() -> None:
    model = custom(Plain()).train()
    model.bn2.eval()
    model.conv.weight.requires_grad_(False)
    before = snapshot(model)
    folded = fuse(model, Context())
    assert same(before, snapshot(model))
    assert not any(module.training for module in folded.modules())
    assert not folded.conv.weight.requires_grad
    assert folded.linear.weight.requires_grad
    assert folded.linear.weight.data_ptr() != model.linear.weight.data_ptr()
    assert same(snapshot(folded), snapshot(fuse(folded, Context()))), "fusing twice changes something more"


class PreActivation(nn.Module):
    """He et al. 2016: BatchNorm and ReLU stand before the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.linear = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        out = self.conv1(self.bn1(x).relu())
        out = self.conv2(self.bn2(out).relu())
        return self.linear((x + out).mean((2, 3)))


class ReadTwice(nn.Module):
    """The convolution's own output goes around the BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        return self.linear((self.bn(x) + x).mean((2, 3)))


class SharedConvolution(nn.Module):
    """One convolution before two BatchNorms: there is no one pair of weights for both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.bn2(self.conv(self.bn1(self.conv(images)))).mean((2, 3))


class SharedNorm(nn.Module):
    """One BatchNorm behind two convolutions: it can fold into both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.bn = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.bn(self.conv2(self.bn(self.conv1(images)).relu())).mean((2, 3))


@pytest.mark.parametrize(
    ("kind", "pairs"),
    [
        (PreActivation, [("conv1", "bn2")]),  # bn1 follows the stem, but the shortcut reads the stem too
        (ReadTwice, []),
        (SharedConvolution, []),
    ],
)
def test_a_norm_that_cannot_fold_stays(kind: type[nn.Module], pairs: list[tuple[str, str]]) -> None:
    model = custom(kind())
    assert foldable(model) == pairs
    folded, images = fuse(model, Context()), noise(model)
    assert torch.allclose(models.predict(folded, [images]), models.predict(model, [images]), atol=1e-5)
    kept = {name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)}
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert kept == norms - {norm for _, norm in pairs}


def test_a_norm_that_two_convolutions_share_keeps_the_answer() -> None:
    model = custom(SharedNorm())
    images = noise(model)
    assert torch.allclose(models.predict(fuse(model, Context()), [images]), models.predict(model, [images]), atol=1e-5)
