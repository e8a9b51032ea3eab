"""INT4 and unsigned weights, weight-only layers, and activations whose range each run finds out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from rescompress import checkpoint, fakequant, metrics, models
from rescompress.cost import layer_costs
from rescompress.edits import edits
from rescompress.fakequant import FakeQuantize, rounded_at_run_time
from rescompress.schemes import SCHEMES
from rescompress.sites import Dtype, Site
from rescompress.spec import Precision
from tests.networks import KINDS, captured, fused, noise, placed

pytestmark = pytest.mark.xdist_group("placement")
weights = st.sampled_from(["int8", "int4", "uint8"])
tensors = arrays.arrays(
    np.float32,
    arrays.array_shapes(max_dims=4, max_side=6),
    elements=st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False),
)


def weight_quantizer(dtype: Dtype, scales: Tensor) -> FakeQuantize:
    made = FakeQuantize(Site("conv.weight", "conv.weight", dtype, len(scales), symmetric=True))
    made.scale.copy_(scales)
    return made


@given(weights, st.lists(st.floats(2.0**-20, 2.0**20, width=32), min_size=1, max_size=5))
def test_weights_within_reach_move_by_at_most_half_a_step_of_their_channel(dtype: Dtype, scales: list[float]) -> None:
    s = torch.tensor(scales)
    largest = 7 if dtype == "int4" else 127
    w = torch.linspace(-largest, largest, 999) * s[:, None]
    quantizer = weight_quantizer(dtype, s)
    assert ((quantizer(w) - w).abs() <= 0.501 * s[:, None]).all()
    assert len(quantizer(w)[0].unique()) == 2 * largest + 1
    beyond = quantizer(3 * w)
    assert torch.allclose(beyond.amax(1), largest * s)
    assert torch.equal(beyond.amin(1), -beyond.amax(1))


@given(st.integers(0, 2**32), st.sampled_from([0.01, 1.0, 77.0]))
def test_unsigned_weights_have_the_values_of_signed_ones(seed: int, size: float) -> None:
    w = size * torch.randn(4, 50, generator=torch.Generator().manual_seed(seed))
    s = w.abs().amax(1) / 100
    assert torch.equal(weight_quantizer("uint8", s)(w), weight_quantizer("int8", s)(w))


def by_onnx(x: np.ndarray) -> np.ndarray:
    """What ONNX's reference evaluator makes of a tensor."""
    import onnx
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", value[:1], value[1:]), opset_imports=[onnx.OperatorSetIdProto(version=21)]
    )
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


@given(tensors)
def test_run_time_ranges_are_those_of_onnx_to_the_bit(x: np.ndarray) -> None:
    assert np.array_equal(rounded_at_run_time(torch.from_numpy(x)).numpy(), by_onnx(x))


def test_halves_go_to_the_even_step() -> None:
    x = torch.tensor([0.0, 0.5, 1.5, 2.5, 254.5, 255.0])
    assert rounded_at_run_time(x).tolist() == [0, 0, 2, 2, 254, 255]


@given(tensors)
def test_run_time_rounding_moves_nothing_by_more_than_a_step(x: np.ndarray) -> None:
    """Half a step by the value itself, and as much again by the zero-point, which is rounded too."""
    x = x.astype(np.float64)
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    moved = np.abs(rounded_at_run_time(torch.from_numpy(x).float()).double().numpy() - x)
    assert moved.max() <= 1.001 * step
    inside = (x > x.min() + step) & (x < x.max() - step)
    assert moved[inside].max(initial=0) <= 0.501 * step + 1e-6 * np.abs(x).max()


def test_the_gradient_passes_straight_through_run_time_rounding() -> None:
    quantizer = FakeQuantize(Site("x", "x", "uint8", dynamic=True))
    x = torch.tensor([-3.0, 0.0, 0.3, 9.0], requires_grad=True)
    torch.autograd.backward((quantizer(x) * torch.arange(4)).sum())
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 2, 3]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Precision:
    found: Precision = request.param
    return found


def test_each_kind_is_lowered_to_integers(kind: Precision) -> None:
    model, images = placed(kind), noise(captured("cifar", "resnet8"), 4)
    lowered = fakequant.lower(model)
    with torch.no_grad():
        expected, found = model(images), lowered(images)
    assert metrics.sqnr_db(expected.numpy(), found.numpy()) > (60 if kind in ("w8", "w4") else 30)
    dtype = "int4" if "w4" in kind else "int8"
    constants = [module for module in lowered.modules() if isinstance(module, fakequant.Dequantize)]
    layers = [module for module in constants if module.dtype != "int32"]
    assert {module.dtype for module in layers} == {dtype}
    assert len(layers) == len(layer_costs(model))
    assert all(int(module.integers.abs().max()) == (7 if dtype == "int4" else 127) for module in layers)
    biases = {name for name, _ in lowered.named_parameters()}
    static = kind in ("int8", "w4a8")
    assert biases == (set() if static else {name for name, _ in model.named_parameters() if name.endswith("bias")})
    pairs = [module for module in lowered.modules() if isinstance(module, fakequant.QuantizeDequantize)]
    assert {module.site.dynamic for module in pairs} == {"dynamic": {True}, "w8": set(), "w4": set()}.get(kind, {False})


def test_unsigned_weights_are_lowered_without_wrapping() -> None:
    signed, unsigned = (
        fakequant.Dequantize(torch.tensor([[-1.0, 0.6, 1.0]]), torch.tensor([1 / 127]), dtype, limits, zero)()
        for dtype, limits, zero in (("int8", (-127, 127), 0), ("uint8", (1, 255), 128))
    )
    assert torch.equal(signed, unsigned)


def test_each_kind_trains(kind: Precision) -> None:
    model, images = placed(kind), noise(captured("cifar", "resnet8"), 2)
    torch.autograd.backward(model(images).square().sum())
    gradients = [weight.grad for name, weight in model.named_parameters() if name.endswith("weight")]
    assert all(gradient is not None and bool(gradient.abs().max() > 0) for gradient in gradients)


@pytest.mark.parametrize(
    ("kind", "runtime"),
    [
        ("w4", "onnxruntime"),
        *(pytest.param(kind, runtime, marks=pytest.mark.slow) for kind in KINDS for runtime in ("tensorrt", "litert")),
    ],
)
def test_each_kind_comes_back_from_a_file_to_the_bit(kind: Precision, runtime: str, tmp_path: Path) -> None:
    model, images = placed(kind, SCHEMES[runtime]), noise(captured("cifar", "resnet8"))
    model.meta["edits"] = edits(fused("cifar", "resnet8"))
    checkpoint.save(model, tmp_path / "one.safetensors")
    loaded = checkpoint.load(tmp_path / "one.safetensors")
    checkpoint.save(loaded, tmp_path / "two.safetensors")
    assert fakequant.sites_of(loaded) == fakequant.sites_of(model)
    assert torch.equal(models.predict(loaded, [images]), models.predict(model, [images]))
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_weight_in_int4_costs_half_a_byte() -> None:
    eight, four = (layer_costs(placed(kind)) for kind in ("w8", "w4"))
    for one, other in zip(eight, four, strict=True):
        assert (one.weight_bits, other.weight_bits) == (8, 4)
        count = one.params or one.macs // (other.output_shape[1] * other.output_shape[2])
        biases = one.output_shape[0] if one.params else 0
        assert one.weight_bytes - other.weight_bytes == (count - biases) // 2
