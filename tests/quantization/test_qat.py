"""QAT: learned scales have LSQ's gradients, training lowers the error, and what comes out is an ordinary INT8 model."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx

from rescompress import checkpoint, graph, models
from rescompress.context import Context
from rescompress.errors import GateFailed
from rescompress.fakequant import FakeQuantize, passing, sites_of
from rescompress.quantization import qat
from rescompress.quantization.qat import LearnedFakeQuantize, QatSchedule, train_quantized
from rescompress.sites import Site
from rescompress.spec import CIFAR
from tests.networks import captured, context, noise, quantized

BRIEF = QatSchedule(epochs=2, batch=16, augment="none", lr=0.01)


def made(dtype: str, scale: float, zero_point: int, channels: int | None = None) -> FakeQuantize:
    quantizer = FakeQuantize(Site("x.weight" if channels else "x", "x", dtype, channels))  # type: ignore[arg-type]
    quantizer.scale.fill_(scale)
    quantizer.zero_point.fill_(zero_point)
    return quantizer


@given(st.sampled_from(["uint8", "int8"]), st.floats(0.0625, 2, width=32), st.integers(0, 100))
def test_the_value_is_the_plain_fake_quants(dtype: str, scale: float, zero_point: int) -> None:
    plain = made(dtype, scale, zero_point)
    x = torch.linspace(-300 * scale, 300 * scale, 997)
    off = (LearnedFakeQuantize(plain)(x) - plain(x)).abs()
    assert off.max() <= 1.01 * scale  # where x / s and x (1 / s) round to either side of a half
    assert (off > 0.01 * scale).float().mean() < 0.02


@given(st.floats(0.0625, 2, width=32), st.integers(0, 255), st.integers(0, 2**20))
def test_gradients_are_those_of_the_paper(scale: float, zero_point: int, seed: int) -> None:
    learned = LearnedFakeQuantize(made("uint8", scale, zero_point))
    x = (torch.randn(1, 64, generator=torch.Generator().manual_seed(seed)) * 200 * scale).requires_grad_()
    learned(x).sum().backward()
    v = x.detach() / scale
    low, high = -zero_point, 255 - zero_point
    inside = (v > low) & (v < high)
    per_value = torch.where(inside, v.round() - v, v.clamp(low, high))
    assert x.grad is not None
    assert torch.equal(x.grad, inside.float())
    assert learned.step.grad is not None
    expected = float(per_value.sum()) / (64 * 255) ** 0.5
    assert float(learned.step.grad) == pytest.approx(expected, rel=1e-3, abs=0.02)


def test_each_channel_has_a_scale_of_its_own() -> None:
    learned = LearnedFakeQuantize(made("int8", 0.5, 0, channels=3))
    with torch.no_grad():
        learned.step.copy_(torch.tensor([0.5, 1.0, 2.0]))
    x = torch.full((3, 2), 1.3)
    assert learned(x)[:, 0].tolist() == pytest.approx([1.5, 1.0, 2.0])
    assert learned.fixed().scale.tolist() == [0.5, 1.0, 2.0]


def coarse(model: fx.GraphModule) -> fx.GraphModule:
    """The same network on a much coarser grid, so that there is something to win."""
    rough = graph.clone(model)
    for module in rough.modules():
        if isinstance(module, FakeQuantize) and module.site.is_weight:
            module.scale *= 24
    return models.describe(rough, models.spec_of(model))  # type: ignore[return-value]


def error(model: fx.GraphModule, truth: fx.GraphModule) -> float:
    images = noise(truth, 32)
    with torch.no_grad(), passing(truth):
        return float((model(images) - truth(images)).square().mean())


def test_training_with_the_rounding_comes_nearer_to_the_float_network() -> None:
    rough = coarse(quantized("cifar", "resnet8"))
    trained = train_quantized(rough, context(), replace(BRIEF, epochs=6), alpha=1.0)
    images = context().images("test").train.read(range(32)).float()
    images = (images / 255 - 0.45) / 0.22
    with torch.no_grad(), passing(rough):
        truth = rough(images)
    with torch.no_grad():
        before, after = ((model(images) - truth).square().mean() for model in (rough, trained))
    assert after < 0.5 * before


def test_an_ordinary_int8_model_comes_out(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = quantized("cifar", "resnet8")
    trained = train_quantized(model, context(), BRIEF)
    assert sites_of(trained) == sites_of(model)
    assert not any(isinstance(module, LearnedFakeQuantize) for module in trained.modules())
    assert [name for name, _ in trained.named_parameters()] == [name for name, _ in model.named_parameters()]
    checkpoint.save(trained, tmp_path / "q.safetensors")
    again = checkpoint.load(tmp_path / "q.safetensors")
    with torch.no_grad():
        assert torch.equal(again(noise(model)), trained(noise(model)))
    first, second = (next(m for m in each.modules() if isinstance(m, FakeQuantize)) for each in (model, trained))
    assert not torch.equal(first.scale, second.scale)


def test_fixed_scales_stay_and_the_argument_is_left_alone() -> None:
    model = quantized("cifar", "resnet8")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = train_quantized(model, context(), BRIEF, scales="fixed")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    moved = {name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert not any(name.startswith("fakequant.") for name in moved)


def test_an_exploding_loss_is_named() -> None:
    with pytest.raises(GateFailed, match="quantize"):
        train_quantized(quantized("cifar", "resnet8"), context(), replace(BRIEF, lr=1e9, epochs=5, clip=0.0))


def test_the_teacher_is_the_float_network() -> None:
    model = quantized("cifar", "resnet8")
    assert 0 < error(model, graph.clone(model)) < error(coarse(model), graph.clone(model))


def test_the_teacher_may_be_another_than_the_model_with_nothing_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where weights lie on a coarse grid already, the network that they came from teaches."""
    model, heard = quantized("cifar", "resnet8"), []
    exact = captured("cifar", "resnet8")
    moved = graph.clone(model)
    with torch.no_grad():
        moved.get_submodule("conv1").weight.neg_()  # type: ignore[operator, union-attr]

    def listen(mine: Tensor, taught: Tensor, *rest: object) -> Tensor:
        heard.append(taught)
        return mine.square().mean()

    monkeypatch.setattr(qat, "softened", listen)
    described = models.describe(moved, models.spec_of(model))
    assert isinstance(described, fx.GraphModule)
    once = replace(BRIEF, epochs=1, batch=32, lr=1e-9)
    for teacher in (exact, None):
        train_quantized(described, context(), once, exact=teacher)
    with passing(described), torch.no_grad():
        spoilt = described(heard_images(context()))
    truth = exact(heard_images(context())).detach()
    assert torch.allclose(*(t.sort(0).values for t in (heard[0], truth)), atol=1e-3)
    assert torch.allclose(*(t.sort(0).values for t in (heard[1], spoilt)), atol=1e-3)


def heard_images(ctx: Context) -> Tensor:
    images = ctx.images("test").train.read(range(32)).float() / 255
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (CIFAR.mean, CIFAR.std))
    return (images - mean) / std
