"""CIFAR ResNets of He et al. 2015 (arXiv:1512.03385, section 4.2): 6n+2 layers, 16-32-64 channels, 32 x 32 inputs."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rescompress.layers import PadShortcut
from rescompress.spec import Preprocessing

ARCHITECTURES = tuple(f"resnet{6 * n + 2}" for n in (1, 2, 3, 5, 7, 9, 18))
VARIANTS = ({"shortcut": "A"}, {"shortcut": "B"})
PREPROCESSING = Preprocessing(resize=32, crop=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Literal["A", "B"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Sequential()
        if in_channels != out_channels and shortcut == "A":
            self.shortcut = PadShortcut.widening(in_channels, out_channels, stride)
        elif in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """``relu(F(x) + shortcut(x))``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """A stem, three stages of ``blocks`` blocks, global average pooling, a linear classifier."""

    def __init__(self, blocks: int, classes: int, shortcut: Literal["A", "B"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1, shortcut)
        self.layer2 = _stage(16, 32, blocks, 2, shortcut)
        self.layer3 = _stage(32, 64, blocks, 2, shortcut)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """Normalized images to logits."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.linear(x)
        return logits


def build(architecture: str, classes: int, *, shortcut: Literal["A", "B"] = "A") -> nn.Module:
    """The stock network with random weights (Kaiming normal).

    Args:
        architecture: one of ``ARCHITECTURES``.
        classes: outputs of the classifier.
        shortcut: how a widening block passes its input on: A zero padding, B projection.
    """
    blocks = (int(architecture.removeprefix("resnet")) - 2) // 6
    return CifarResNet(blocks, classes, shortcut)


def rename(name: str) -> str:
    """Public checkpoints say ``module.`` in front and sometimes ``fc`` for the classifier."""
    name = name.removeprefix("module.")
    return name.replace("fc.", "linear.", 1) if name.startswith("fc.") else name


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, shortcut: Literal["A", "B"]) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, shortcut)
    rest = (BasicBlock(out_channels, out_channels, 1, shortcut) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
