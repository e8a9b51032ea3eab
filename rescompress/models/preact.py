"""Pre-activation ResNets (ResNet-v2) of He et al. 2016 (arXiv:1603.05027), in CIFAR and ImageNet form.

Tensor names are those of the widespread CIFAR code: ``layer1.0.bn1``, ``layer1.0.conv1``, ``shortcut.0``, ``linear``.
"""

import re
from collections.abc import Iterator
from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.models import Guess, Shapes, State, Stock
from rescompress.models._layout import classes_of, count_blocks, init_kaiming, stages
from rescompress.spec import CIFAR, IMAGENET

BASIC = {f"preact_resnet{6 * n + 2}": n for n in (3, 5, 7, 9, 18)}
"""Blocks per stage of the 16-32-64 networks with basic blocks."""
DEEP = {f"preact_resnet{9 * n + 2}": n for n in (18, 111)}
"""Blocks per stage of the 64-128-256 networks with bottlenecks: the paper's 164 and 1001 layers."""
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
ARCHITECTURES = {
    **dict.fromkeys((*BASIC, *DEEP), Stock(CIFAR)),
    **{f"preact_resnet{depth}_cifar": Stock(CIFAR) for depth in DEPTHS},
    **{f"preact_resnet{depth}": Stock(IMAGENET) for depth in DEPTHS},
}


class PreActBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3 x 3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """``F(relu(bn(x))) + shortcut``; a projection reads the activated input."""
        active = F.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        out = self.conv1(active)
        return cast(Tensor, self.conv2(F.relu(self.bn2(out))) + kept)


class PreActBottleneck(nn.Module):
    """BatchNorm and ReLU before each of a 1 x 1, a 3 x 3 and a 1 x 1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        middle = out_channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, middle, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, out_channels, 1, bias=False)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """``F(relu(bn(x))) + shortcut``; a projection reads the activated input."""
        active = F.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return cast(Tensor, self.conv3(F.relu(self.bn3(out))) + kept)


class PreActResNet(nn.Module):
    """A bare stem convolution, stages of pre-activation blocks, a last BatchNorm and ReLU, pooling, a classifier.

    Args:
        rows: the stages.
        stem: channels of the first convolution.
        width: channels behind the last stage.
        classes: outputs of the classifier.
        large: whether the stem is ImageNet's: 7 x 7 with stride 2 and pooling.
        last_norm: whether BatchNorm and ReLU stand behind the last stage.
    """

    def __init__(
        self, rows: list[nn.Sequential], stem: int, width: int, classes: int, large: bool, last_norm: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False) if large else nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        for number, blocks in enumerate(rows, 1):
            self.add_module(f"layer{number}", blocks)
        self.stages = len(rows)
        self.bn = nn.BatchNorm2d(width) if last_norm else None
        self.linear = nn.Linear(width, classes)
        init_kaiming(self)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """Normalized images to logits."""
        x = self.pool(self.conv1(images))
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
        x = x if self.bn is None else F.relu(self.bn(x))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def build(architecture: str, classes: int, *, last_norm: bool = True) -> nn.Module:
    """The stock network with random weights (Kaiming normal).

    Args:
        architecture: one of ``ARCHITECTURES``; ``_cifar`` marks ImageNet's widths behind a CIFAR stem.
        classes: outputs of the classifier.
        last_norm: BatchNorm and ReLU behind the last stage, as in the paper; some public code leaves them out.
    """
    large = ARCHITECTURES[architecture].preprocessing == IMAGENET
    if architecture in BASIC:
        rows = stages(PreActBlock, 16, (16, 32, 64), (BASIC[architecture],) * 3)
        return PreActResNet(rows, 16, 64, classes, large, last_norm)
    if architecture in DEEP:
        rows = stages(PreActBottleneck, 16, (64, 128, 256), (DEEP[architecture],) * 3)
        return PreActResNet(rows, 16, 256, classes, large, last_norm)
    depth = int(architecture.removeprefix("preact_resnet").removesuffix("_cifar"))
    if depth < 50:
        rows = stages(PreActBlock, 64, (64, 128, 256, 512), DEPTHS[depth])
        return PreActResNet(rows, 64, 512, classes, large, last_norm)
    rows = stages(PreActBottleneck, 64, (256, 512, 1024, 2048), DEPTHS[depth])
    return PreActResNet(rows, 64, 2048, classes, large, last_norm)


def guess(shapes: Shapes) -> Iterator[Guess]:
    """By the blocks per stage; the caller's look at all shapes tells stems and kinds of blocks apart."""
    blocks, classes, arguments = count_blocks(shapes), classes_of(shapes, "linear"), {"last_norm": "bn.bias" in shapes}
    if not classes:
        return
    if len(blocks) == 3:
        yield from ((name, classes, arguments) for name, n in (BASIC | DEEP).items() if blocks == (n,) * 3)
    for depth in (depth for depth, depths in DEPTHS.items() if depths == blocks):
        yield from ((f"preact_resnet{depth}{form}", classes, arguments) for form in ("", "_cifar"))


def adopt(state: State) -> dict[str, Tensor]:
    """Some public checkpoints say ``fc`` for the classifier."""
    return {re.sub(r"^fc\.", "linear.", name): tensor for name, tensor in state.items()}


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if in_channels == out_channels and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
