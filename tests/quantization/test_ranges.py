"""From a range to a grid: real 0 is on it, and nothing within the range moves by more than half a step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rescompress import fakequant, graph
from rescompress.fakequant import FakeQuantize, Site
from rescompress.placement import place
from rescompress.quantization.ranges import set_activation, set_weight
from rescompress.spec import QuantScheme
from tests.networks import custom
from tests.test_placement import SCHEMES

ends = st.floats(-1e6, 1e6, width=32)


def quantizer(low: float, high: float, dtype: fakequant.Dtype = "uint8") -> FakeQuantize:
    made = FakeQuantize(Site("x", "x", dtype))
    set_activation(made, low, high)
    return made


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@given(one=ends, other=ends)
def test_no_value_of_the_range_moves_by_more_than_half_a_step(dtype: fakequant.Dtype, one: float, other: float) -> None:
    low, high = sorted((one, other))
    made = quantizer(low, high, dtype)
    x = torch.linspace(low, high, 1001)
    assert (made(x) - x).abs().max() <= 0.501 * made.scale[0]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@given(one=ends, other=ends)
def test_zero_is_on_the_grid(dtype: fakequant.Dtype, one: float, other: float) -> None:
    made = quantizer(*sorted((one, other)), dtype)
    assert made(torch.zeros(1)) == 0
    assert made.site.limits[0] <= made.zero_point[0] <= made.site.limits[1]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (2.0, 5.0), (-5.0, -2.0), (-1e-3, 1e-3)])
def test_the_grid_is_as_fine_as_the_range_allows(dtype: fakequant.Dtype, low: float, high: float) -> None:
    scale = float(quantizer(low, high, dtype).scale)
    reach = max(high, 0) - min(low, 0) if dtype == "uint8" else 2 * max(abs(low), abs(high))
    assert reach / 255 <= scale <= reach / 253


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_an_empty_range_gives_a_usable_grid(dtype: fakequant.Dtype) -> None:
    made = quantizer(0.0, 0.0, dtype)
    assert (float(made.scale), int(made.zero_point), float(made(torch.zeros(1)))) == (1, 0, 0)


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


def layer(scheme: QuantScheme, weight: Tensor, bias: Tensor) -> tuple[FakeQuantize, FakeQuantize, Tensor]:
    """Input and weight quantizer of a quantized 1 x 1 convolution, and the bias that its integer kernel adds."""
    model = OneLayer()
    model.conv.weight.data, model.conv.bias.data = weight.view(4, 3, 1, 1), bias
    traced = graph.capture(custom(model), (3, 8, 8))
    sites = place(traced, scheme)
    fakequant.insert(traced, sites)
    x, w = (fakequant.quantizer_of(traced, site) for site in sites if site.value in (graph.INPUT, "conv.weight"))
    set_activation(x, -1.0, 1.0)
    set_weight(traced, next(node for node in traced.graph.nodes if graph.op_of(node) == "conv"))
    lowered = dict(fakequant.lower(traced).named_modules())["fakequant.conv/bias_lowered"]
    return x, w, lowered()


def test_each_channels_largest_weight_reaches_the_end() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.5], [1e-3, 0, 0], [0, 0, -1e4], [0, 0, 0]])
    _, w, _ = layer(SCHEMES["onnxruntime"], weight, torch.zeros(4))
    assert torch.allclose(w.scale, torch.tensor([2 / 127, 1e-3 / 127, 1e4 / 127, 1.0]))
    assert w.site.limits == (-127, 127)
    assert torch.equal(w.zero_point, torch.zeros(4, dtype=torch.int32))


def test_one_scale_for_the_whole_weight_is_the_largest() -> None:
    _, w, _ = layer(SCHEMES["symmetric per tensor"], torch.arange(12.0).view(4, 3), torch.zeros(4))
    assert w.scale.tolist() == pytest.approx([11 / 127])


def test_a_bias_beyond_the_accumulator_widens_its_channels_scale() -> None:
    weight = torch.full((4, 3), 1e-12)
    bias = torch.tensor([5.0, -5.0, 0.0, 1e-13])
    x, w, lowered = layer(SCHEMES["onnxruntime"], weight, bias)
    assert ((bias / (x.scale * w.scale)).abs() <= 2**30 * 1.001).all()
    assert torch.allclose(lowered, bias, rtol=1e-6, atol=1e-15)
    assert torch.allclose(w.scale[2:], torch.tensor(1e-12 / 127), rtol=1e-5)
