"""Wide ResNets of Zagoruyko and Komodakis 2016 (arXiv:1605.07146): pre-activation blocks, few layers, many channels.

Tensor names are those of the widespread PyTorch code: ``block1.layer.0.bn1``, ``convShortcut``, ``fc``.
"""

import re
from collections.abc import Iterator
from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.models import Guess, Shapes, State, Stock
from rescompress.models._layout import classes_of, count_blocks, init_kaiming, row
from rescompress.spec import CIFAR

ARCHITECTURES = dict.fromkeys(
    ("wrn_16_4", "wrn_16_8", "wrn_22_8", "wrn_28_2", "wrn_28_10", "wrn_34_10", "wrn_40_1", "wrn_40_2", "wrn_40_4"),
    Stock(CIFAR),
)
"""``wrn_DEPTH_WIDENING``."""


class WideBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3 x 3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        widens = in_channels != out_channels
        self.convShortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if widens else None

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """``F(relu(bn(x))) + shortcut``; a projection reads the activated input."""
        active = F.relu(self.bn1(x))
        kept = x if self.convShortcut is None else self.convShortcut(active)
        return cast(Tensor, self.conv2(F.relu(self.bn2(self.conv1(active)))) + kept)


class Stage(nn.Module):
    """A row of blocks, named as public checkpoints name it."""

    def __init__(self, widths: tuple[int, int], blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = row(WideBlock, widths, blocks, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """One block after the other."""
        return cast(Tensor, self.layer(x))


class WideResNet(nn.Module):
    """A bare stem convolution, three stages, a last BatchNorm and ReLU, pooling, a classifier."""

    def __init__(self, blocks: int, widening: int, classes: int) -> None:
        super().__init__()
        widths = (16, 16 * widening, 32 * widening, 64 * widening)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = Stage(widths[:2], blocks, 1)
        self.block2 = Stage(widths[1:3], blocks, 2)
        self.block3 = Stage(widths[2:], blocks, 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)
        init_kaiming(self)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """Normalized images to logits."""
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        x = F.adaptive_avg_pool2d(F.relu(self.bn1(x)), 1).flatten(1)
        logits: Tensor = self.fc(x)
        return logits


def build(architecture: str, classes: int) -> nn.Module:
    """The stock network with random weights (Kaiming normal), without dropout.

    Args:
        architecture: one of ``ARCHITECTURES``.
        classes: outputs of the classifier.
    """
    depth, widening = map(int, re.findall(r"\d+", architecture))
    return WideResNet((depth - 4) // 6, widening, classes)


def guess(shapes: Shapes) -> Iterator[Guess]:
    """By the blocks per stage and the width of the last BatchNorm."""
    blocks, classes = count_blocks(shapes, r"block{}\.layer\.(\d+)\."), classes_of(shapes, "fc")
    if len(blocks) == 3 and classes:
        name = f"wrn_{6 * blocks[0] + 4}_{shapes.get('bn1.weight', (0,))[0] // 64}"
        yield from ((name, classes, {}) for known in ARCHITECTURES if known == name)


def adopt(state: State) -> dict[str, Tensor]:
    """Names in public checkpoints are the family's own."""
    return dict(state)
