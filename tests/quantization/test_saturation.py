"""Saturating integers against a loop that does what the instruction's manual says."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from rescompress import graph
from rescompress.quantization import saturation
from tests.networks import custom


class Layer(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images)


def node_of(layer: nn.Module, channels: int, side: int = 6) -> torch.fx.Node:
    traced = graph.capture(custom(Layer(layer)), (channels, side, side))
    return next(node for node in traced.graph.nodes if graph.op_of(node) in ("conv", "linear"))


def by_hand(x: list[int], w: list[int]) -> int:
    """PMADDUBSW on neighbours, then plain sums."""
    total = 0
    for k in range(0, len(x), 2):
        pair = sum(a * b for a, b in zip(x[k : k + 2], w[k : k + 2], strict=True))
        total += max(-32768, min(32767, pair))
    return total


def rows(values: torch.Tensor, packing: saturation.Packing) -> list[int]:
    """A kernel's window ``[c, kh, kw]`` as the list that the kernel walks along."""
    last = values.flatten(1).T
    if packing == "blocks" and last.shape[1] % 2:
        last = F.pad(last, (0, 1))
    return last.reshape(-1).tolist()


@pytest.mark.parametrize("packing", ["rows", "blocks"])
@pytest.mark.parametrize(
    ("channels", "out", "kernel", "stride", "padding", "dilation", "groups"),
    [(3, 4, 3, 1, 1, 1, 1), (4, 3, (3, 2), 2, (1, 0), 1, 1), (6, 4, 2, 1, 1, 2, 2), (5, 2, 1, 1, 0, 1, 1)],
)
def test_convolution_equals_the_loop(packing, channels, out, kernel, stride, padding, dilation, groups) -> None:
    layer = nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups)
    node = node_of(layer, channels)
    x = torch.randint(100, 256, (1, channels, 6, 6), generator=torch.Generator().manual_seed(0))
    w = torch.randint(-127, 128, layer.weight.shape, generator=torch.Generator().manual_seed(1))
    w = torch.where(w > 0, 127, w)
    found = saturation.accumulated(x, w, node, packing, zero_point=117)
    (sy, sx), (py, px), (dy, dx), _ = saturation.geometry(node)
    padded = F.pad(x, (px, px, py, py), value=117)[0]
    inner, size = channels // groups, out // groups
    kh, kw = w.shape[2:]
    for o in range(out):
        first = o // size * inner
        for y in range(found.shape[2]):
            for column in range(found.shape[3]):
                window = padded[
                    first : first + inner,
                    y * sy : y * sy + dy * (kh - 1) + 1 : dy,
                    column * sx : column * sx + dx * (kw - 1) + 1 : dx,
                ]
                assert found[0, o, y, column] == by_hand(rows(window, packing), rows(w[o], packing))


@functools.cache
def linear_node() -> torch.fx.Node:
    traced = graph.capture(custom(nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 2, 2))), (3, 2, 2))
    return next(node for node in traced.graph.nodes if graph.op_of(node) == "linear")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**31))
def test_linear_equals_the_loop(features: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (2, features), generator=generator)
    w = torch.randint(60, 128, (3, features), generator=generator) * torch.tensor([[1], [-1], [1]])
    found = saturation.accumulated(x, w, linear_node(), "rows")
    assert found.tolist() == [[by_hand(row.tolist(), o.tolist()) for o in w] for row in x]


def test_a_depthwise_convolution_adds_in_32_bits() -> None:
    node = node_of(nn.Conv2d(4, 4, 3, groups=4), 4)
    x, w = torch.full((1, 4, 6, 6), 255), torch.full((4, 1, 3, 3), 127)
    assert (saturation.accumulated(x, w, node, "rows") == 9 * 255 * 127).all()


def test_packings_differ_for_an_odd_number_of_channels_only() -> None:
    for channels in range(1, 7):
        rows, blocks = (saturation.pairs(channels, 9, packing).tolist() for packing in ("rows", "blocks"))
        assert (rows == blocks) == (channels % 2 == 0)
        assert len({k for pair in rows for k in pair}) == channels * 9 // 2 * 2
