"""Cutting channels of one layer, and the shortcut that has no parameters."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rescompress.layers import PadShortcut, keep_channels


@st.composite
def shortcuts(draw: st.DrawFn) -> tuple[int, list[int], int]:
    """Arguments of a shortcut: inputs, sources, stride."""
    width = draw(st.integers(1, 6))
    return width, draw(st.lists(st.integers(-1, width - 1), min_size=1, max_size=8)), draw(st.integers(1, 3))


@st.composite
def places(draw: st.DrawFn, width: int) -> list[int]:
    """Some channels, in any order."""
    return draw(st.lists(st.integers(0, width - 1), min_size=1, max_size=width, unique=True))


@given(st.integers(1, 20), st.integers(0, 20), st.integers(1, 3), st.integers(3, 9), st.integers(3, 9))
def test_the_stock_shortcut_slices_and_pads(width: int, more: int, stride: int, height: int, length: int) -> None:
    """Option A as He et al. state it."""
    x = torch.randn(2, width, height, length)
    expected = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, more // 2, more - more // 2))
    assert torch.equal(PadShortcut.widening(width, width + more, stride)(x), expected)


@given(shortcuts())
def test_each_output_is_its_source_or_zero(arguments: tuple[int, list[int], int]) -> None:
    layer = PadShortcut(*arguments)
    x = torch.randn(2, layer.in_channels, 5, 6)
    y, seen = layer(x), x[:, :, :: layer.stride, :: layer.stride]
    assert layer.out_channels == y.shape[1] == len(layer.sources)
    for j, source in enumerate(layer.sources):
        assert torch.equal(y[:, j], seen[:, source] if source >= 0 else torch.zeros_like(y[:, j]))


@given(st.data())
def test_a_cut_shortcut_copies_what_is_left(data: st.DataObject) -> None:
    layer = PadShortcut(*data.draw(shortcuts()))
    inputs, outputs = data.draw(places(layer.in_channels)), data.draw(places(layer.out_channels))
    x = torch.randn(2, layer.in_channels, 4, 4)
    silent = torch.zeros_like(x)
    silent[:, inputs] = x[:, inputs]
    expected = layer(silent)[:, outputs]
    keep_channels(layer, inputs, outputs)
    assert torch.equal(layer(x[:, inputs]), expected)


def test_a_shortcut_saves_nothing() -> None:
    """Public checkpoints of these networks hold no tensor for it."""
    layer = PadShortcut.widening(4, 8, 2)
    assert dict(layer.state_dict()) == {}
    assert list(layer.parameters()) == []


@given(st.data(), st.booleans())
def test_a_cut_convolution_reads_and_makes_what_is_left(data: st.DataObject, bias: bool) -> None:
    layer = nn.Conv2d(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)), 3, bias=bias).double()
    inputs, outputs = data.draw(places(layer.in_channels)), data.draw(places(layer.out_channels))
    x = torch.randn(2, layer.in_channels, 5, 5).double()
    silent = torch.zeros_like(x)
    silent[:, inputs] = x[:, inputs]
    expected = layer(silent)[:, outputs]
    keep_channels(layer, inputs, outputs)
    assert torch.allclose(layer(x[:, inputs]), expected)
    assert (layer.in_channels, layer.out_channels) == (len(inputs), len(outputs))


@given(st.data())
def test_a_cut_linear_layer_reads_and_makes_what_is_left(data: st.DataObject) -> None:
    layer = nn.Linear(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))).double()
    inputs, outputs = data.draw(places(layer.in_features)), data.draw(places(layer.out_features))
    x = torch.randn(3, layer.in_features).double()
    silent = torch.zeros_like(x)
    silent[:, inputs] = x[:, inputs]
    expected = layer(silent)[:, outputs]
    keep_channels(layer, inputs, outputs)
    assert torch.allclose(layer(x[:, inputs]), expected)
    assert (layer.in_features, layer.out_features) == (len(inputs), len(outputs))


@pytest.mark.parametrize("affine", [True, False])
def test_a_cut_batch_norm_keeps_the_statistics_of_what_is_left(affine: bool) -> None:
    layer = nn.BatchNorm2d(4, affine=affine)
    layer(torch.randn(8, 4, 3, 3) * torch.arange(1, 5).view(1, 4, 1, 1))
    x = torch.randn(2, 4, 3, 3)
    expected = layer.eval()(x)[:, [3, 1]]
    keep_channels(layer, None, [3, 1])
    assert torch.allclose(layer(x[:, [3, 1]]), expected)
    assert layer.num_features == 2


def test_a_side_that_is_none_stays_whole() -> None:
    layer = nn.Conv2d(3, 4, 1)
    before = layer.weight.detach().clone()
    keep_channels(layer, None, None)
    assert torch.equal(layer.weight, before)


def test_cut_parameters_can_be_trained_as_before() -> None:
    layer = nn.Conv2d(3, 4, 1)
    layer.bias.requires_grad_(False)  # type: ignore[union-attr]
    keep_channels(layer, [0], [1, 2])
    assert isinstance(layer.weight, nn.Parameter)
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad  # type: ignore[union-attr]
    assert layer.weight.is_contiguous()


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Conv1d(4, 4, 1), nn.LayerNorm(4)])
def test_other_layers_are_not_cut(layer: nn.Module) -> None:
    with pytest.raises(TypeError, match="can't be cut"):
        keep_channels(layer, None, [0, 1])


@st.composite
def grouped(draw: st.DrawFn) -> tuple[int, int, int, list[int]]:
    """Groups, channels of each on either side, and the groups that stay."""
    groups = draw(st.integers(2, 6))
    kept = draw(st.lists(st.integers(0, groups - 1), min_size=1, max_size=groups, unique=True))
    return groups, draw(st.integers(1, 3)), draw(st.integers(1, 3)), sorted(kept)


@given(grouped())
def test_a_grouped_convolution_loses_whole_groups(arguments: tuple[int, int, int, list[int]]) -> None:
    groups, inputs, outputs, kept = arguments
    layer = nn.Conv2d(groups * inputs, groups * outputs, 3, groups=groups)
    x = torch.randn(2, groups * inputs, 5, 5)
    ins = [g * inputs + c for g in kept for c in range(inputs)]
    outs = [g * outputs + c for g in kept for c in range(outputs)]
    expected = layer(x)[:, outs]
    keep_channels(layer, ins, outs)
    assert (layer.groups, layer.in_channels, layer.out_channels) == (len(kept), len(ins), len(outs))
    assert torch.allclose(layer(x[:, ins]), expected, atol=1e-6)


@given(grouped())
def test_a_group_norm_loses_whole_groups(arguments: tuple[int, int, int, list[int]]) -> None:
    groups, width, _, kept = arguments
    layer = nn.GroupNorm(groups, groups * width)
    x = torch.randn(2, groups * width, 4, 4)
    outs = [g * width + c for g in kept for c in range(width)]
    expected = layer(x)[:, outs]
    keep_channels(layer, None, outs)
    assert torch.allclose(layer(x[:, outs]), expected, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(4, 4, 1, groups=2), lambda: nn.GroupNorm(2, 4)])
@pytest.mark.parametrize("kept", [[0], [0, 2], [1, 0], [0, 1, 2], [0, 0]])
def test_no_group_is_torn_apart(make: Callable[[], nn.Module], kept: list[int]) -> None:
    with pytest.raises(ValueError, match="only whole groups of 2 channels"):
        keep_channels(make(), None, kept)
