"""CIFAR ResNets of He et al. 2015 (arXiv:1512.03385, section 4.2): 6n+2 layers, 16-32-64 channels, 32 x 32 inputs.

With them the paper's ImageNet networks as they are commonly put on CIFAR: 64-128-256-512 channels, a small stem.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.layers import PadShortcut
from rescompress.models import Guess, Shapes, State, Stock
from rescompress.models._layout import classes_of, count_blocks, init_kaiming, stages
from rescompress.spec import CIFAR

Shortcut = Literal["A", "B"]
NARROW = {f"resnet{6 * n + 2}": n for n in (1, 2, 3, 5, 7, 9, 18)}
"""Blocks per stage of the 16-32-64 networks."""
WIDE = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
ARCHITECTURES = dict.fromkeys((*NARROW, *WIDE), Stock(CIFAR))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride, shortcut)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """``relu(F(x) + shortcut(x))``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut; the middle ones have a quarter of the channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        middle = out_channels // 4
        self.conv1 = nn.Conv2d(in_channels, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride, "B")

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """``relu(F(x) + shortcut(x))``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A 3 x 3 stem, three or four stages, global average pooling, a linear classifier."""

    def __init__(self, rows: list[nn.Sequential], stem: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        for number, blocks in enumerate(rows, 1):
            self.add_module(f"layer{number}", blocks)
        self.stages = len(rows)
        self.linear = nn.Linear(width, classes)
        init_kaiming(self)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """Normalized images to logits."""
        x = F.relu(self.bn1(self.conv1(images)))
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.linear(x)
        return logits


def build(architecture: str, classes: int, *, shortcut: Shortcut = "A") -> nn.Module:
    """The stock network with random weights (Kaiming normal).

    Args:
        architecture: one of ``ARCHITECTURES``.
        classes: outputs of the classifier.
        shortcut: how a widening block of the 16-32-64 networks passes its input on: A zero padding, B projection.
    """
    if architecture in NARROW:
        rows = stages(partial(BasicBlock, shortcut=shortcut), 16, (16, 32, 64), (NARROW[architecture],) * 3)
        return CifarResNet(rows, 16, 64, classes)
    if architecture in ("resnet18", "resnet34"):
        rows = stages(partial(BasicBlock, shortcut="B"), 64, (64, 128, 256, 512), WIDE[architecture])
        return CifarResNet(rows, 64, 512, classes)
    return CifarResNet(stages(Bottleneck, 64, (256, 512, 1024, 2048), WIDE[architecture]), 64, 2048, classes)


def guess(shapes: Shapes) -> Iterator[Guess]:
    """By the blocks per stage; only the projection of option B has weights."""
    blocks, classes = count_blocks(shapes), classes_of(shapes, "linear")
    if len(blocks) == 3 and classes:
        shortcut = "B" if "layer2.0.shortcut.0.weight" in shapes else "A"
        yield from ((name, classes, {"shortcut": shortcut}) for name, n in NARROW.items() if blocks == (n,) * 3)
    elif classes:
        yield from ((name, classes, {}) for name, depths in WIDE.items() if blocks == depths)


def adopt(state: State) -> dict[str, Tensor]:
    """Some public checkpoints say ``fc`` for the classifier and ``downsample`` for the shortcut."""
    return {re.sub(r"^fc\.", "linear.", name).replace(".downsample.", ".shortcut."): t for name, t in state.items()}


def _shortcut(in_channels: int, out_channels: int, stride: int, kind: Shortcut) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Sequential()
    if kind == "A":
        return PadShortcut.widening(in_channels, out_channels, stride)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
