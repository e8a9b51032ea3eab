"""What the families that we build ourselves share: rows of blocks, and counting them in a state dict."""

import re
from collections.abc import Callable, Mapping
from itertools import chain, count, takewhile

from torch import nn


def row(
    block: Callable[[int, int, int], nn.Module], widths: tuple[int, int], blocks: int, stride: int
) -> nn.Sequential:
    """So many blocks in a row; the first one widens and strides.

    Args:
        block: makes a block from input channels, output channels and stride.
        widths: channels before and behind the row.
        blocks: how many.
        stride: of the first block.
    """
    first = block(widths[0], widths[1], stride)
    return nn.Sequential(first, *(block(widths[1], widths[1], 1) for _ in range(blocks - 1)))


def stages(
    block: Callable[[int, int, int], nn.Module], stem: int, widths: tuple[int, ...], blocks: tuple[int, ...]
) -> list[nn.Sequential]:
    """A row of blocks for each width; the first keeps the resolution, each other one halves it."""
    ends = zip((stem, *widths[:-1]), widths, strict=True)
    return [row(block, pair, n, 2 if place else 1) for place, (pair, n) in enumerate(zip(ends, blocks, strict=True))]


def count_blocks(shapes: Mapping[str, tuple[int, ...]], pattern: str = r"layer{}\.(\d+)\.") -> tuple[int, ...]:
    """Blocks of each stage that a state dict names: ``(3, 4, 6, 3)`` for a ResNet-50.

    Args:
        shapes: tensors by name.
        pattern: of a block's names; ``{}`` stands for the number of the stage, counted from 1.
    """
    found = (_blocks(shapes, pattern.format(stage)) for stage in count(1))
    return tuple(takewhile(bool, found))


def classes_of(shapes: Mapping[str, tuple[int, ...]], classifier: str) -> int:
    """Outputs of the classifier of this name; 0 where there is none."""
    return next(chain(shapes.get(f"{classifier}.weight", ()), (0,)))


def init_kaiming(model: nn.Module) -> None:
    """Draw weights from He et al.'s normal distribution (arXiv:1502.01852)."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)


def _blocks(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    return len({match.group(1) for match in (re.match(pattern, name) for name in shapes) if match})
