"""SE-ResNets of Hu et al. 2018 (arXiv:1709.01507), in CIFAR and ImageNet form.

Tensor names are those of the widespread PyTorch code: ``layer1.0.se.fc.0`` (linear, no bias), ``downsample``, ``fc``.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.models import Guess, Shapes, State, Stock
from rescompress.models._layout import classes_of, count_blocks, init_kaiming, stages
from rescompress.spec import CIFAR, IMAGENET

SMALL = {f"se_resnet{6 * n + 2}": n for n in (3, 5, 9, 18)}
"""Blocks per stage of the 16-32-64 networks."""
LARGE = {
    "se_resnet18": (2, 2, 2, 2),
    "se_resnet34": (3, 4, 6, 3),
    "se_resnet50": (3, 4, 6, 3),
    "se_resnet101": (3, 4, 23, 3),
    "se_resnet152": (3, 8, 36, 3),
}
ARCHITECTURES = {**dict.fromkeys(SMALL, Stock(CIFAR)), **dict.fromkeys(LARGE, Stock(IMAGENET))}


class SqueezeExcite(nn.Module):
    """Weigh each channel by what all of them show on average."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, max(1, channels // reduction), bias=False),
            nn.ReLU(),
            nn.Linear(max(1, channels // reduction), channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """``x sigmoid(W2 relu(W1 mean(x)))``."""
        weights: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return x * weights[:, :, None, None]


class SEBasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a squeeze-excitation beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, reduction: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.se = SqueezeExcite(out_channels, reduction)
        self.downsample = _downsample(in_channels, out_channels, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """``relu(se(F(x)) + shortcut(x))``."""
        kept = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.se(out) + kept)


class SEBottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions and a squeeze-excitation beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, reduction: int) -> None:
        super().__init__()
        middle = out_channels // 4
        self.conv1 = nn.Conv2d(in_channels, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.se = SqueezeExcite(out_channels, reduction)
        self.downsample = _downsample(in_channels, out_channels, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """``relu(se(F(x)) + shortcut(x))``."""
        kept = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.se(self.bn3(self.conv3(out))) + kept)


class SEResNet(nn.Module):
    """A stem, three or four stages of blocks, global average pooling, a linear classifier.

    Args:
        rows: the stages.
        stem: channels of the first convolution.
        width: channels behind the last stage.
        classes: outputs of the classifier.
        large: whether the stem is ImageNet's: 7 x 7 with stride 2 and pooling.
    """

    def __init__(self, rows: list[nn.Sequential], stem: int, width: int, classes: int, large: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False) if large else nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        for number, blocks in enumerate(rows, 1):
            self.add_module(f"layer{number}", blocks)
        self.stages = len(rows)
        self.fc = nn.Linear(width, classes)
        init_kaiming(self)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """Normalized images to logits."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def build(architecture: str, classes: int, *, reduction: int = 16) -> nn.Module:
    """The stock network with random weights (Kaiming normal).

    Args:
        architecture: one of ``ARCHITECTURES``.
        classes: outputs of the classifier.
        reduction: how many times fewer channels the squeeze has.
    """
    basic = architecture in SMALL or architecture in ("se_resnet18", "se_resnet34")
    block = partial(SEBasicBlock if basic else SEBottleneck, reduction=reduction)
    blocks = (SMALL[architecture],) * 3 if architecture in SMALL else LARGE[architecture]
    base = (16, 32, 64) if architecture in SMALL else (64, 128, 256, 512)
    widths = tuple(width * (1 if basic else 4) for width in base)
    rows = stages(block, base[0], widths, blocks)
    return SEResNet(rows, base[0], widths[-1], classes, large=architecture in LARGE)


def guess(shapes: Shapes) -> Iterator[Guess]:
    """By the blocks per stage and the width of the first squeeze."""
    blocks, classes = count_blocks(shapes), classes_of(shapes, "fc")
    squeeze = shapes.get("layer1.0.se.fc.0.weight", (0, 0))
    if classes and len(squeeze) == 2 and squeeze[0]:
        arguments = {"reduction": squeeze[1] // squeeze[0]}
        depths = LARGE | {name: (n,) * 3 for name, n in SMALL.items()}
        yield from ((name, classes, arguments) for name, depth in depths.items() if depth == blocks)


def adopt(state: State) -> dict[str, Tensor]:
    """Names in public checkpoints are the family's own."""
    return dict(state)


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if in_channels == out_channels and stride == 1:
        return None
    projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(out_channels))
