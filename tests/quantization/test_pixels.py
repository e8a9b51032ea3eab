"""Images on the grid of their pixels: answers stay, nothing is rounded away, and a file brings it all back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rescompress import checkpoint, data, export, fakequant, graph, metrics, models
from rescompress.backends import onnxruntime
from rescompress.quantization import quantize
from rescompress.quantization.pixels import read_pixels
from rescompress.spec import Preprocessing
from tests.networks import context, custom, fused, noise, quantized

CHANNEL = st.tuples(*[st.floats(0.0, 1.0)] * 3)


class First(nn.Module):
    """One convolution of the images, and what a test wants to be odd about it."""

    def __init__(self, *, twice: bool = False, **arguments: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, **{"kernel_size": 3, "padding": 1, **arguments})
        self.twice = twice

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[n, 6]``."""
        y = self.conv(x).relu().mean((2, 3))
        return y + x.mean((1, 2, 3))[:, None] if self.twice else y


def levels(preprocessing: Preprocessing, side: int = 8) -> Tensor:
    """Normalized images of whole pixels, black and white among them."""
    pixels = torch.randint(0, 256, (4, 3, side, side), generator=torch.Generator().manual_seed(0))
    pixels[0, :, 0], pixels[0, :, 1] = 0, 255
    return data.normalize(pixels.to(torch.uint8), preprocessing)


@given(
    mean=CHANNEL,
    std=st.tuples(*[st.floats(0.1, 1.0)] * 3),
    kernel=st.sampled_from([1, 2, 3, (3, 5)]),
    padding=st.sampled_from([0, 1, (2, 0), (0, 3)]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
)
def test_answers_stay_and_images_lie_on_one_grid(mean: Any, std: Any, **arguments: Any) -> None:
    model = First(kernel_size=arguments.pop("kernel"), **arguments).eval()
    preprocessing = Preprocessing(8, 8, mean, std)
    traced = graph.capture(graph.clone(model), (3, 8, 8))
    images = levels(preprocessing)
    found = read_pixels(traced, model, preprocessing)
    assert found is not None
    value, (low, high) = found
    assert torch.allclose(traced(images), model(images), atol=2e-4)
    seen: list[Tensor] = []
    graph.watch(traced, images, lambda node, x: seen.append(x) if node in {graph.values(traced)[value]} else None)
    above, left = padding if isinstance(padding := model.conv.padding, tuple) else (0, 0)
    inner = seen[0][:, :, above : 8 + above, left : 8 + left]
    steps = (inner - low) / ((high - low) / 255)
    assert (steps - steps.round()).abs().max() < 0.01
    assert (float(steps.min()), float(steps.max())) == (pytest.approx(0, abs=0.01), pytest.approx(255, abs=0.01))


@pytest.mark.parametrize(
    "odd",
    [{"twice": True}, {"bias": False}, {"padding": "same"}, {"groups": 3}, {"padding_mode": "reflect"}],
    ids=lambda odd: next(iter(odd)),
)
def test_what_has_no_other_form_stays(odd: dict[str, Any]) -> None:
    model = First(**odd).eval()
    traced = graph.capture(graph.clone(model), (3, 8, 8))
    before = str(traced.graph)
    assert read_pixels(traced, model, models.spec_of(custom(model)).preprocessing) is None
    assert str(traced.graph) == before


def _rounded_away(model: nn.Module) -> float:
    """The largest error that the first quantizer makes of whole pixels, in steps of its own."""
    traced, images = graph.clone(model), levels(models.spec_of(model).preprocessing, 32)
    site = next(site for site in fakequant.sites_of(traced) if not site.is_weight)  # type: ignore[arg-type]
    quantizer, seen = fakequant.quantizer_of(traced, site), list[Tensor]()  # type: ignore[arg-type]
    quantizer.register_forward_hook(lambda _, taken, made: seen.append(taken[0] - made))
    traced(images)
    return float(seen[0][:, :, 1:-1, 1:-1].abs().max() / quantizer.scale)


def test_pixels_are_told_apart_without_error() -> None:
    made = quantized("cifar", "resnet8")
    assert _rounded_away(made) < 0.01
    off = quantize(fused("cifar", "resnet8"), context(), pixels=False)
    assert _rounded_away(off) > 0.4
    assert [site.value for site in fakequant.sites_of(off)][0] == graph.INPUT  # noqa: RUF015
    assert [site.value for site in fakequant.sites_of(made)][0] == "conv1.pixels_2"  # noqa: RUF015


@pytest.mark.parametrize(
    "knobs",
    [
        {"runtime": "tensorrt"},
        {"runtime": "coreml"},
        {"runtime": "litert"},
        {"first": False},
        {"float_layers": ("conv1",)},
        {"precision": "dynamic"},
        {"precision": "w8"},
    ],
    ids=str,
)
def test_elsewhere_images_are_read_as_they_are(knobs: dict[str, Any]) -> None:
    made = quantize(fused("cifar", "resnet8"), context(), **knobs)
    assert not any("pixels" in name for name, _ in made.named_buffers())


def test_a_file_brings_it_back(tmp_path: Path) -> None:
    made = quantized("cifar", "resnet8")
    checkpoint.save(made, tmp_path / "model.safetensors")
    again = checkpoint.load(tmp_path / "model.safetensors")
    assert torch.equal(made(noise(made)), again(noise(made)))
    checkpoint.save(again, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_onnx_runtime_computes_the_first_layer_in_integers(tmp_path: Path) -> None:
    made = quantized("cifar", "resnet8")
    artifact = export(made, "onnxruntime", tmp_path / "artifact")
    images = levels(models.spec_of(made).preprocessing, 32)
    with onnxruntime.load(artifact, threads=1) as session:
        answer = session.run(images.numpy())
    assert {layer.layer: layer.precision for layer in onnxruntime.audit(artifact).layers}["conv1"] == "int8"
    assert metrics.sqnr_db(made(images).detach().numpy(), answer) > 30
