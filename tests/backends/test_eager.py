"""The reference backend: its ends, its floats, and what it says of its integers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from rescompress import checkpoint, fakequant, models
from rescompress.artifact import Artifact, Manifest
from rescompress.backends import eager
from rescompress.errors import BackendMissing, RecipeError
from rescompress.metrics import sqnr_db
from tests.networks import fused, noise, quantized, stock

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="There is a GPU here.")


def export(model: nn.Module, folder: Path, **knobs: Any) -> Artifact:
    spec = models.spec_of(model)
    entry = eager.export(model, spec, folder, **knobs)
    return Artifact(folder, Manifest("", "", "eager", "", "fp32", entry, {entry: ""}, spec, "", "", "", knobs))


def run(artifact: Artifact, images: torch.Tensor) -> np.ndarray:
    with eager.load(artifact, threads=1) as session:
        return session.run(images.numpy())


def test_pixels_go_in_and_probabilities_come_out(tmp_path: Path) -> None:
    model = fused("cifar", "resnet8")
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    look = models.spec_of(model).preprocessing
    images = (pixels.numpy() / 255 - np.array(look.mean)) / np.array(look.std)
    logits = models.predict(model, [torch.from_numpy(images.transpose(0, 3, 1, 2)).float()]).double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answer = run(export(model, tmp_path, preprocess=True, softmax=True), pixels)
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    assert answer.dtype == np.float32


@pytest.mark.parametrize(("floats", "low", "high"), [("fp16", 45, 80), ("bf16", 25, 60)])
def test_floats_are_what_was_asked_for(floats: str, low: float, high: float, tmp_path: Path) -> None:
    """11 and 8 bits of mantissa lie 18 dB apart; what were FP32 in truth would agree to 100 dB."""
    model = fused("cifar", "resnet8")
    images = noise(model, 4)
    artifact = export(model, tmp_path, floats=floats)
    assert low < sqnr_db(models.predict(model, [images]).numpy(), run(artifact, images)) < high
    assert {layer.precision for layer in eager.audit(artifact).layers} == {floats}


def test_the_file_keeps_fp32_and_the_model_its_type(tmp_path: Path) -> None:
    model = fused("cifar", "resnet8")
    artifact = export(model, tmp_path, floats="fp16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert artifact.entry.stat().st_size > 4 * sum(parameter.numel() for parameter in model.parameters())


def test_an_unfused_network_is_audited_too(tmp_path: Path) -> None:
    report = eager.audit(export(stock("cifar", "resnet8"), tmp_path))
    assert (report.op_counts["conv"], report.op_counts["batch_norm"]) == (9, 7)
    assert report.notes == ()


def test_integers_are_said_to_be_floats(tmp_path: Path) -> None:
    report = eager.audit(export(quantized("cifar", "resnet8"), tmp_path))
    assert {layer.precision for layer in report.layers} == {"fp32"}
    assert report.op_counts["fake-quant"] > 0
    assert "computes in float" in report.notes[0]


def test_integers_take_a_byte_each(tmp_path: Path) -> None:
    model, path = quantized("cifar", "resnet8"), tmp_path / "floats.safetensors"
    checkpoint.save(model, path)
    state = model.state_dict()
    weights = {site.value for site in fakequant.sites_of(model) if site.is_weight} & set(state)
    less = 3 * sum(state[name].numel() for name in weights)
    entry = export(model, tmp_path).entry
    with safe_open(entry, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in weights} == {"I8"}
    assert path.stat().st_size - entry.stat().st_size >= less


def test_only_zero_points_that_say_something_are_written(tmp_path: Path) -> None:
    model = quantized("cifar", "resnet8")
    points = {name: tensor for name, tensor in model.state_dict().items() if name.endswith(".zero_point")}
    entry = export(model, tmp_path).entry
    with safe_open(entry, "pt") as file:
        written = {name for name in file.keys() if name.endswith(".zero_point")}  # noqa: SIM118 - not a mapping
    assert written == {name for name, tensor in points.items() if tensor.any()}
    assert 0 < len(written) < len(points)
    again = checkpoint.load(entry).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in points.items())


def test_settings_of_the_process_come_back(tmp_path: Path) -> None:
    artifact = export(fused("cifar", "resnet8"), tmp_path)
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    with eager.load(artifact, threads=3):
        assert (torch.get_num_threads(), torch.backends.cudnn.allow_tf32) == (3, False)
    assert before == (
        torch.get_num_threads(),
        torch.backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
    )


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = fused("cifar", "resnet8")
    with pytest.raises(RecipeError, match="integers are told apart in FP32, not in fp16"):
        export(quantized("cifar", "resnet8"), tmp_path, floats="fp16")
    with pytest.raises(RecipeError, match="TF32"):
        export(model, tmp_path, tf32=True)
    headless = replace(models.spec_of(model), output="maps")
    with pytest.raises(RecipeError, match="no classifier"):
        eager.export(model, headless, tmp_path, softmax=True)
    assert list(tmp_path.iterdir()) == []


@no_gpu
def test_a_gpu_that_is_not_there_is_no_reason_to_take_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(BackendMissing, match="no GPU"):
        export(fused("cifar", "resnet8"), tmp_path, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("knobs", "least"), [({}, 90), ({"tf32": True}, 45), ({"floats": "fp16"}, 45), ({"floats": "bf16"}, 25)], ids=str
)
def test_a_gpu_computes_what_the_cpu_computes(knobs: dict[str, Any], least: float, tmp_path: Path) -> None:
    model = fused("cifar", "resnet8")
    artifact = export(model, tmp_path, device="cuda", **knobs)
    images = noise(model, 4)
    agreement = sqnr_db(models.predict(model, [images]).numpy(), run(artifact, images))
    assert least < agreement
    assert not knobs or agreement < 85
    precisions = {layer.precision for layer in eager.audit(artifact).layers if layer.op == "conv"}
    assert precisions == {"tf32" if "tf32" in knobs else knobs.get("floats", "fp32")}
