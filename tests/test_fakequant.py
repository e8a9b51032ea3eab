"""INT8's grid in float, and its lowering to integers."""

import copy
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from rescompress import fakequant, graph, metrics, models
from rescompress.fakequant import FakeQuantize
from rescompress.sites import Dtype, Site
from tests.networks import noise, quantized

dtypes = st.sampled_from(["uint8", "int8"])
scales = st.floats(2.0**-60, 2.0**60, width=32)


@st.composite
def quantizers(draw: st.DrawFn) -> FakeQuantize:
    dtype = draw(dtypes)
    made = FakeQuantize(Site("x", "x", dtype))
    made.scale.fill_(draw(scales))
    made.zero_point.fill_(draw(st.integers(*made.site.limits)))
    return made


def reach(quantizer: FakeQuantize) -> tuple[float, float]:
    """The smallest and the largest value on the grid."""
    low, high = (float(quantizer.scale) * (end - int(quantizer.zero_point)) for end in quantizer.site.limits)
    return low, high


@given(quantizers())
def test_values_within_reach_move_by_at_most_half_a_step(quantizer: FakeQuantize) -> None:
    x = torch.linspace(*reach(quantizer), 1777)
    assert (quantizer(x) - x).abs().max() <= 0.501 * quantizer.scale[0]


@given(quantizers())
def test_values_beyond_reach_saturate(quantizer: FakeQuantize) -> None:
    low, high = reach(quantizer)
    step = float(quantizer.scale)
    ends = torch.tensor([low, low, high, high])
    beyond = torch.tensor([low - step, low - 1000 * step, high + step, high + 1000 * step])
    assert torch.allclose(quantizer(beyond), ends, rtol=1e-6, atol=0)


@given(quantizers())
def test_zero_stays_zero(quantizer: FakeQuantize) -> None:
    assert quantizer(torch.zeros(1)) == 0


@given(quantizers(), st.integers(0, 2**32))
def test_quantizing_twice_changes_nothing_more(quantizer: FakeQuantize, seed: int) -> None:
    x = torch.randn(500, generator=torch.Generator().manual_seed(seed)) * 100 * quantizer.scale
    once = quantizer(x)
    assert torch.equal(quantizer(once), once)


@given(quantizers())
def test_the_gradient_passes_within_reach_and_stops_beyond(quantizer: FakeQuantize) -> None:
    low, high = reach(quantizer)
    step = float(quantizer.scale)
    x = torch.tensor([low - 2 * step, low, (low + high) / 2, high, high + 2 * step], requires_grad=True)
    torch.autograd.backward(quantizer(x).sum())
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_a_weight_has_a_scale_for_each_channel_and_no_128th_negative_step() -> None:
    quantizer = FakeQuantize(Site("conv.weight", "conv.weight", "int8", channels=2))
    quantizer.scale.copy_(torch.tensor([1.0, 10.0]))
    weight = torch.tensor([[0.6, -200.0], [0.6, -200.0]]).view(2, 2, 1, 1)
    assert torch.equal(quantizer(weight).flatten(1), torch.tensor([[1.0, -127.0], [0.0, -200.0]]))


@given(dtype=dtypes, value=st.floats(-300, 300, width=32), zero_point=st.integers(0, 100))
def test_the_exported_pair_of_ops_equals_the_fake_quant(dtype: Dtype, value: float, zero_point: int) -> None:
    quantizer = FakeQuantize(Site("x", "x", dtype))
    quantizer.scale.fill_(0.75)
    quantizer.zero_point.fill_(zero_point)
    x = torch.tensor([value])
    assert torch.equal(fakequant.QuantizeDequantize(quantizer)(x), quantizer(x))


@pytest.fixture(params=["A", "B"])
def model(request: pytest.FixtureRequest) -> fx.GraphModule:
    return quantized("cifar", "resnet8", shortcut=request.param)


def has_bias(node: fx.Node) -> bool:
    return graph.op_of(node) in ("conv", "linear") and len(node.args) > 2 and node.args[2] is not None


def on_the_grid(model: fx.GraphModule) -> fx.GraphModule:
    """A copy whose biases are whole steps of the accumulator, as the integer kernel rounds them."""
    snapped = graph.clone(model)
    for node in snapped.graph.nodes:
        if has_bias(node):
            x, w = (fakequant.quantizer_behind(snapped, source) for source in node.args[:2])
            assert x is not None
            assert w is not None
            bias, step = graph.tensor_of(snapped, node.args[2]), (x.scale * w.scale).double()
            bias.data = ((bias / step).round() * step).float()
    return snapped


def test_lowering_changes_no_more_than_the_rounding_of_biases(model: fx.GraphModule) -> None:
    snapped, images = on_the_grid(model), noise(model, 8)
    expected = models.predict(snapped, [images])
    with torch.no_grad():
        lowered = fakequant.lower(snapped)(images)
    assert torch.allclose(lowered, expected, atol=1e-5 * float(expected.abs().max()))


def test_rounding_the_biases_hardly_shows(model: fx.GraphModule) -> None:
    images = noise(model, 8)
    with torch.no_grad():
        lowered = fakequant.lower(model)(images)
    assert metrics.sqnr_db(models.predict(model, [images]).numpy(), lowered.numpy()) > 35


def test_lowered_weights_are_integers_and_no_float_copy_stays(model: fx.GraphModule) -> None:
    lowered = fakequant.lower(model)
    layers = sum(graph.op_of(node) in ("conv", "linear") for node in model.graph.nodes)
    biases = sum(has_bias(node) for node in model.graph.nodes)
    integers = Counter(b.dtype for name, b in lowered.named_buffers() if name.endswith("integers"))
    assert integers == {torch.int8: layers, torch.int32: biases}
    assert list(lowered.parameters()) == []
    assert not any(isinstance(module, FakeQuantize) for module in lowered.modules())


def test_lowering_does_not_edit_its_argument(model: fx.GraphModule) -> None:
    images, before = noise(model), copy.deepcopy(model.state_dict())
    code = model.code
    fakequant.lower(model)
    assert model.code == code
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert models.predict(model, [images]).isfinite().all()


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.conv = nn.MaxPool2d(2), nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(self.pool(images)).mean((2, 3))


def test_sites_that_share_a_quantizer_share_its_module() -> None:
    traced = graph.capture(Pooled(), (3, 8, 8))
    fakequant.insert(traced, [Site("images", "images", "uint8"), Site("pool", "images", "uint8")])
    shared = {id(module) for module in traced.modules() if isinstance(module, FakeQuantize)}
    calls = [node.target for node in traced.graph.nodes if fakequant.quantizer_behind(traced, node)]
    assert (len(shared), calls) == (1, ["fakequant.images", "fakequant.images"])


def test_a_layer_without_bias_is_lowered_too() -> None:
    traced = graph.capture(Pooled(), (3, 8, 8))
    fakequant.insert(traced, [Site("pool", "pool", "uint8"), Site("conv.weight", "conv.weight", "int8", 4)])
    images = torch.rand(2, 3, 8, 8) * 100
    with torch.no_grad():
        assert torch.allclose(fakequant.lower(traced)(images), traced(images), atol=1e-4)
