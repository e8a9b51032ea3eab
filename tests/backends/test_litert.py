"""LiteRT's files carry our integers and our scales, show the face that was asked for, and say what runs them."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rescompress import fakequant, models
from rescompress.errors import InputRefused
from rescompress.metrics import sqnr_db
from rescompress.quantization import quantize
from rescompress.schemes import LITERT
from rescompress.spec import Precision
from tests.networks import cached, context, fused, noise, placed

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from rescompress.backends import litert
from rescompress.backends._litert_file import _packed
from tests.backends.litert_files import answer, details, written

pytestmark = pytest.mark.xdist_group("litert")


@cached
def int8(architecture: str = "resnet8") -> nn.Module:
    return quantize(fused("cifar", architecture), context(), runtime="litert")


def test_the_integers_are_eagers_own(tmp_path: Path) -> None:
    """XNNPACK rounds once and to even, as eager does; only a sum that lies next to a half may differ."""
    images = noise(int8(), 8)
    expected = models.predict(int8(), [images]).numpy()
    got = answer(written(int8(), tmp_path), images.numpy())
    assert sqnr_db(expected, got) > 40
    assert (got.argmax(1) == expected.argmax(1)).all()


def test_scales_and_zero_points_are_carried_to_the_bit(tmp_path: Path) -> None:
    model = int8()
    found = {tensor["name"]: tensor["quantization_parameters"] for tensor in details(written(model, tmp_path))}
    by_layer = {name.split(";")[-1].removesuffix("/quantized"): grid for name, grid in found.items()}
    by_layer |= {name: grid for name, grid in found.items() if name.endswith("/quantized")}
    for site in fakequant.sites_of(model):
        quantizer = fakequant.quantizer_of(model, site)  # type: ignore[arg-type]
        grid = by_layer[f"{site.value}/quantized" if site.value == "images" else site.value]
        np.testing.assert_array_equal(grid["scales"], quantizer.scale.numpy())
        np.testing.assert_array_equal(grid["zero_points"], quantizer.zero_point.numpy())


def test_biases_lie_on_the_accumulators_grid(tmp_path: Path) -> None:
    found = {tensor["name"]: tensor for tensor in details(written(int8(), tmp_path))}
    scale = {name: tensor["quantization_parameters"]["scales"] for name, tensor in found.items()}
    assert found["conv1.bias"]["dtype"] is np.int32
    np.testing.assert_allclose(scale["conv1.bias"], scale["images/quantized"] * scale["conv1.weight"], rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "least", "share"), [("w8", 90, 0.3), ("w4", 90, 0.2), ("dynamic", 30, 0.3), ("w4a8", 25, 0.2)]
)
def test_other_precisions(kind: Precision, least: float, share: float, tmp_path: Path) -> None:
    model = placed(kind, LITERT)
    artifact, images = written(model, tmp_path), noise(model, 4)
    expected = models.predict(model, [images]).numpy()
    assert sqnr_db(expected, answer(artifact, images.numpy())) > least
    assert artifact.entry.stat().st_size < share * written(fused("cifar", "resnet8"), tmp_path).entry.stat().st_size
    computed = {layer.precision for layer in litert.audit(artifact).layers if layer.op == "conv"}
    assert computed == {"fp32" if kind in ("w8", "w4") else "int8"}


def test_two_integers_of_four_bits_share_a_byte() -> None:
    packed = _packed(np.array([[-8, 7], [0, -1], [3, -3]], np.int8))
    assert packed.tolist() == [0x78, 0xF0, 0xD3]
    assert _packed(np.array([5], np.int8)).tolist() == [5]


def test_half_floats_halve_the_file(tmp_path: Path) -> None:
    model = fused("cifar", "resnet8")
    images, wide, half = noise(model, 4), written(model, tmp_path), written(model, tmp_path, floats="fp16")
    assert half.entry.stat().st_size < 0.53 * wide.entry.stat().st_size
    assert 55 < sqnr_db(answer(wide, images.numpy()), answer(half, images.numpy())) < 90


@pytest.mark.parametrize("quantized", [False, True])
def test_pixels_in_and_probabilities_out(quantized: bool, tmp_path: Path) -> None:
    model = int8() if quantized else fused("cifar", "resnet8")
    spec = models.spec_of(model)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    mean, std = (torch.tensor(numbers) for numbers in (spec.preprocessing.mean, spec.preprocessing.std))
    images = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    expected = models.predict(model, [images]).softmax(1).numpy()
    got = answer(written(model, tmp_path, preprocess=True, softmax=True), pixels)
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)
    assert sqnr_db(expected, got) > (30 if quantized else 90)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_serves_any_number_of_images(batch: int, tmp_path: Path) -> None:
    model = fused("cifar", "resnet8")
    images = noise(model, 7).numpy()
    fixed, flexible = written(model, tmp_path, batch=batch), written(model, tmp_path)
    assert sqnr_db(answer(flexible, images), answer(fixed, images)) > 100


@pytest.mark.parametrize("softmax", [False, True])
def test_integers_in_and_out(softmax: bool, tmp_path: Path) -> None:
    artifact = written(int8(), tmp_path, integer_io=True, softmax=softmax)
    images = noise(int8(), 4)
    with litert.load(artifact, threads=1) as session:
        ends = (*session.interpreter.get_input_details(), *session.interpreter.get_output_details())
    assert {end["dtype"] for end in ends} == {np.int8}
    expected = models.predict(int8(), [images])
    expected = expected.softmax(1) if softmax else expected
    assert sqnr_db(expected.numpy(), answer(artifact, images.numpy())) > (20 if softmax else 40)


def test_integers_are_refused_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="integer_io needs an input that is quantized"):
        written(fused("cifar", "resnet8"), tmp_path, integer_io=True)


def test_labels_and_preprocessing_travel_in_the_file(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    artifact = written(int8(), tmp_path, labels=("cat", "dog"))
    content = artifact.entry.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("labels.txt") == b"cat\ndog\n"
    model = schema.ModelT.InitFromPackedBuf(content)
    told = json.loads(bytes(model.buffers[model.metadata[0].buffer].data))
    assert told["labels"] == ["cat", "dog"]
    assert told["mean"] == list(models.spec_of(int8()).preprocessing.mean)
    assert answer(artifact, noise(int8(), 1).numpy()).shape == (1, 10)


def test_constants_begin_at_multiples_of_sixteen(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    content = written(int8(), tmp_path).entry.read_bytes()
    model = schema.Model.GetRootAs(content)
    for place in range(1, model.BuffersLength()):
        data = bytes(model.Buffers(place).DataAsNumpy())
        starts = [at for at in range(0, len(content), 16) if content.startswith(data, at)]
        assert starts, place


def test_the_audit_says_what_the_delegate_runs(tmp_path: Path) -> None:
    report = litert.audit(written(int8(), tmp_path))
    assert report.notes == ("XNNPACK runs all 19 nodes in 1 part.",)
    report = litert.audit(written(placed("w4a8", LITERT), tmp_path))
    assert "own kernels run conv1 (CONV_2D)" in report.notes[1]
    report = litert.audit(written(placed("w8", LITERT), tmp_path))
    assert report.notes[-1] == "10 weights are stored in fewer bits and computed with in FP32."


@pytest.mark.slow
def test_int8_takes_at_most_0_27_of_a_resnet20(tmp_path: Path) -> None:
    sizes = [written(model, tmp_path).entry.stat().st_size for model in (fused("cifar", "resnet20"), int8("resnet20"))]
    assert 0.25 < sizes[1] / sizes[0] <= 0.27


def test_a_gate_stays_in_integers(tmp_path: Path) -> None:
    """LOGISTIC writes one grid only, so quantize gives a sigmoid that grid; what moves it hands it on."""
    model = quantize(fused("se", "se_resnet20"), context(), runtime="litert")
    images = noise(model, 8)
    path = written(model, tmp_path)
    floats = [one["name"] for one in details(path) if one["dtype"] is np.float32]
    assert [name for name in floats if ".se." in name] == []
    assert sqnr_db(models.predict(model, [images]).numpy(), answer(path, images.numpy())) > 25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "architecture", "least"),
    [("se", "se_resnet18", 30), ("preact", "preact_resnet18", 25), ("timm", "resnet26d", 15)],
)
def test_other_families_in_int8(family: str, architecture: str, least: float, tmp_path: Path) -> None:
    model = quantize(fused(family, architecture, side=32), context(), runtime="litert")
    images = noise(model, 8)
    expected = models.predict(model, [images]).numpy()
    assert sqnr_db(expected, answer(written(model, tmp_path), images.numpy())) > least
