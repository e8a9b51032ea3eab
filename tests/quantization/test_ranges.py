"""From a range to a grid: real 0 is on it, and nothing within the range moves by more than half a step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rescompress import fakequant, graph
from rescompress.fakequant import FakeQuantize
from rescompress.placement import place
from rescompress.quantization import OBSERVERS
from rescompress.quantization.grid import Grid
from rescompress.quantization.histogram import Histogram
from rescompress.quantization.ranges import mse_scale, set_activation, set_ranges, set_weight
from rescompress.schemes import QuantScheme
from rescompress.sites import Site
from tests.networks import custom
from tests.test_placement import SCHEMES

ends = st.floats(-1e6, 1e6, width=32)
SITES = {
    "u8": Site("x", "x", "uint8"),
    "s8": Site("x", "x", "int8"),
    "s8 symmetric": Site("x", "x", "int8", symmetric=True),
}
every_type = pytest.mark.parametrize("site", SITES.values(), ids=SITES)


def quantizer(low: float, high: float, site: Site) -> FakeQuantize:
    made = FakeQuantize(site)
    set_activation(made, low, high)
    return made


@every_type
@given(one=ends, other=ends)
def test_no_value_of_the_range_moves_by_more_than_half_a_step(site: Site, one: float, other: float) -> None:
    low, high = sorted((one, other))
    made = quantizer(low, high, site)
    x = torch.linspace(low, high, 1001)
    assert (made(x) - x).abs().max() <= 0.501 * made.scale[0]


@every_type
@given(one=ends, other=ends)
def test_zero_is_on_the_grid(site: Site, one: float, other: float) -> None:
    made = quantizer(*sorted((one, other)), site)
    assert made(torch.zeros(1)) == 0
    assert made.site.limits[0] <= made.zero_point[0] <= made.site.limits[1]


@every_type
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (2.0, 5.0), (-5.0, -2.0), (-1e-3, 1e-3)])
def test_the_grid_is_as_fine_as_the_range_allows(site: Site, low: float, high: float) -> None:
    scale = float(quantizer(low, high, site).scale)
    reach = 2 * max(abs(low), abs(high)) if site.symmetric else max(high, 0) - min(low, 0)
    assert reach / 255 <= scale <= reach / 253


@every_type
def test_an_empty_range_gives_a_usable_grid(site: Site) -> None:
    made = quantizer(0.0, 0.0, site)
    assert (float(made.scale), int(made.zero_point)) == (1, site.limits[0] if not site.symmetric else 0)
    assert made(torch.zeros(1)) == 0


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


rows = st.lists(st.lists(st.floats(-10, 10, width=32), min_size=6, max_size=6), min_size=1, max_size=4)


@pytest.mark.parametrize("reach", [7, 127])
@given(values=rows)
def test_the_least_squared_error_of_each_channel_is_found(reach: int, values: list[list[float]]) -> None:
    """Against each channel alone, and with the scale that clips nothing among those tried."""
    weight = torch.tensor(values)
    scale = mse_scale(weight, reach)
    for row, found in zip(weight, scale, strict=True):
        widest = float(row.abs().amax()) / reach
        tried = [found.clone(), *(torch.tensor(widest * share) for share in (1.0, 0.9, 0.8, 0.6, 0.4, 0.2))]
        if not all(float(step) > 1e-30 for step in tried):
            continue
        error = [float((row - (row / s).round().clamp(-reach, reach) * s).double().square().sum()) for s in tried]
        assert error[0] <= min(error) * 1.001 + 1e-12


def test_few_bits_clip_a_channel_with_an_outlier() -> None:
    weight = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    weight[1, 0] = 12.0
    few, many = mse_scale(weight, 7) * 7, mse_scale(weight, 127) * 127
    assert 2.2 < float(few[0]) < float(weight[0].abs().max())
    assert float(few[1]) < 5
    assert float(many[1]) > 8


def test_the_weights_observer_is_asked_for() -> None:
    model = OneLayer()
    traced = graph.capture(custom(model), (3, 8, 8))
    site = Site("conv.weight", "conv.weight", "int4", 4)
    fakequant.insert(traced, [site])
    node = next(node for node in traced.graph.nodes if graph.op_of(node) == "conv")
    weight = model.conv.weight.detach().flatten(1)
    set_weight(traced, node, "mse")
    assert torch.equal(fakequant.quantizer_of(traced, site).scale, mse_scale(weight, 7))
    set_weight(traced, node)
    assert torch.allclose(fakequant.quantizer_of(traced, site).scale, weight.abs().amax(1) / 7)


def test_ranges_are_set_by_the_observer_and_weights_after_them() -> None:
    model = OneLayer()
    model.conv.weight.data.fill_(1e-12)
    traced = graph.capture(custom(model), (3, 8, 8))
    sites = place(traced, SCHEMES["onnxruntime"])
    fakequant.insert(traced, sites)
    made = Histogram()
    made.update(torch.tensor([-1.0, 3.0]))
    histograms = {site.quantizer: made for site in sites if not site.is_weight}
    set_ranges(traced, histograms, OBSERVERS.bind("minmax"))
    x, w = (fakequant.quantizer_of(traced, site) for site in sites if site.value in (graph.INPUT, "conv.weight"))
    assert float(x.scale) == pytest.approx(4 / 255)
    bias = model.conv.bias.detach().abs()
    assert torch.allclose(w.scale, (bias / (x.scale * 2**30)).clamp(min=1e-12 / 127))


def test_what_is_measured_at_run_time_needs_no_histogram() -> None:
    traced = graph.capture(custom(OneLayer()), (3, 8, 8))
    sites = (Site(graph.INPUT, graph.INPUT, "uint8", dynamic=True), Site("conv.weight", "conv.weight", "int8", 4))
    fakequant.insert(traced, sites)
    set_ranges(traced, {}, OBSERVERS.bind("minmax"))
    assert (fakequant.quantizer_of(traced, sites[1]).scale < 1).all()


@every_type
def test_a_grid_is_that_of_its_site(site: Site) -> None:
    grid = Grid.of(site)
    assert (grid.q_min, grid.q_max, grid.levels, grid.symmetric) == (*site.limits, 256, site.symmetric)
