"""Core ML: each knob is seen in what was saved, integers have our scales, and what can't be written is refused."""

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rescompress import backends, fakequant, knobs, models
from rescompress.artifact import Artifact, Manifest
from rescompress.errors import InputRefused, RecipeError
from rescompress.metrics import sqnr_db
from rescompress.quantization import quantize
from rescompress.schemes import COREML
from tests.networks import cached, context, custom, fused, noise, placed

pytest.importorskip("coremltools", reason="coremltools is not installed")
pytestmark = pytest.mark.xdist_group("contract")

coreml: Any = backends.get("coreml")
LABELS = ("ant", "bee", "cat")


@cache
def tiny() -> nn.Module:
    torch.manual_seed(0)
    convs = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2)
    return custom(nn.Sequential(*convs, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3)))


@cached
def integers(kind: str) -> nn.Module:
    return (
        quantize(fused("cifar", "resnet8"), context(), runtime="coreml")
        if kind == "calibrated"
        else placed(kind, COREML)
    )


def made(model: nn.Module, folder: Path, **given: Any) -> Artifact:
    spec = models.spec_of(model)
    entry = coreml.export(model, spec, folder, **given)
    filled = knobs.check(coreml.export, given, "coreml")
    return Artifact(folder, Manifest("", "", "coreml", "", "fp32", entry, {}, spec, "", "", "", knobs.plain(filled)))


def saved(artifact: Artifact) -> Any:
    from rescompress.backends._coreml_interpreter_file import read_spec

    return read_spec(artifact.entry.parent)[0]


def answer(artifact: Artifact, images: Tensor) -> np.ndarray[Any, Any]:
    with coreml.load(artifact, threads=1) as session:
        return np.asarray(session.run(images.numpy()))


def expected(model: nn.Module, images: Tensor) -> np.ndarray[Any, Any]:
    return models.predict(model, [images]).numpy()


def size_of(artifact: Artifact) -> int:
    return sum(path.stat().st_size for path in artifact.folder.rglob("*") if path.is_file())


def test_floats_are_what_the_program_computes_in(tmp_path: Path) -> None:
    images, wanted = noise(tiny(), 5), expected(tiny(), noise(tiny(), 5))
    for floats, low, high in (("fp32", 100, np.inf), ("fp16", 50, 90)):
        (tmp_path / floats).mkdir()
        artifact = made(tiny(), tmp_path / floats, floats=floats)
        assert {layer.precision for layer in coreml.audit(artifact).layers} == {floats}
        assert low < sqnr_db(wanted, answer(artifact, images)) <= high
    assert knobs.check(coreml.export, {}, "coreml")["floats"] == "fp16"


def test_an_image_goes_in_and_a_class_with_its_probability_comes_out(tmp_path: Path) -> None:
    artifact = made(tiny(), tmp_path, floats="fp32", preprocess=True, softmax=True, labels=LABELS)
    description, program = saved(artifact).description, saved(artifact).mlProgram
    assert description.input[0].type.imageType.width == 8
    assert [feature.name for feature in description.output] == ["classLabel", "classLabel_probs"]
    assert all(label.encode() in program.SerializeToString() for label in LABELS)
    pixels = torch.randint(0, 256, (3, 8, 8, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    normalized = (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    wanted = torch.from_numpy(expected(tiny(), normalized)).softmax(1).numpy()
    np.testing.assert_allclose(answer(artifact, pixels), wanted, atol=1e-5)


def test_a_fixed_batch_still_serves_any_number_of_images(tmp_path: Path) -> None:
    artifact = made(tiny(), tmp_path, floats="fp32", batch=4, softmax=True)
    assert list(saved(artifact).description.input[0].type.multiArrayType.shape) == [4, 3, 8, 8]
    assert [feature.name for feature in saved(artifact).description.output] == ["probabilities"]
    wanted = torch.from_numpy(expected(tiny(), noise(tiny(), 9))).softmax(1).numpy()
    for count in (1, 4, 9):
        np.testing.assert_allclose(answer(artifact, noise(tiny(), 9)[:count]), wanted[:count], atol=1e-5)


def test_a_flexible_batch_is_taken_in_parts_that_the_program_allows(tmp_path: Path) -> None:
    artifact = made(tiny(), tmp_path, floats="fp32")
    sizes = saved(artifact).description.input[0].type.multiArrayType.shapeRange.sizeRanges[0]
    assert (sizes.lowerBound, sizes.upperBound) == (1, 64)
    images = noise(tiny(), 65)
    np.testing.assert_allclose(answer(artifact, images), expected(tiny(), images), atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "stored", "least_db", "bits"),
    [("int8", "int8", 35, 8), ("palette6", "a palette of 64", 25, 6), ("palette4", "a palette of 16", 12, 4)],
)
def test_float_weights_can_be_stored_small(
    tmp_path: Path, weights: str, stored: str, least_db: float, bits: int
) -> None:
    artifact = made(tiny(), tmp_path, weights=weights)
    report = coreml.audit(artifact)
    assert report.notes[0] == f"3 layers have weights stored as {stored} and compute in fp16."
    assert {layer.precision for layer in report.layers} == {"fp16"}
    assert report.int8_nodes.correct == 0
    images = noise(tiny(), 4)
    wanted = expected(tiny(), images)
    assert sqnr_db(wanted - wanted.mean(0), answer(artifact, images) - wanted.mean(0)) > least_db
    count = sum(parameter.numel() for parameter in tiny().parameters() if parameter.dim() > 1)
    file = artifact.entry.parent / "Data/com.apple.CoreML/weights/weight.bin"
    assert count * bits / 8 < file.stat().st_size < count * bits / 8 + 3000


def test_the_card_tells_who_made_the_model_and_what_it_wants(tmp_path: Path) -> None:
    card = {"author": "Ada", "license": "MIT", "description": "Three animals", "version": "7"}
    artifact = made(tiny(), tmp_path, minimum_deployment_target="iOS16", **card)
    description = saved(artifact).description
    told = description.metadata
    assert (told.author, told.license, told.shortDescription, told.versionString) == tuple(card.values())
    assert told.userDefined["rescompress.mean"] == "(0.5, 0.5, 0.5)"
    assert told.userDefined["rescompress.std"] == "(0.25, 0.25, 0.25)"
    assert not any("date" in key for key in told.userDefined)
    assert saved(artifact).specificationVersion == 7  # iOS 16


def test_integers_and_scales_are_those_of_the_quantized_model(tmp_path: Path) -> None:
    from rescompress.backends._coreml_interpreter import Program

    model = integers("calibrated")
    program = Program(made(model, tmp_path, floats="fp32").entry.parent)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    quantizers = [fakequant.quantizer_of(model, site) for site in fakequant.sites_of(model)]
    ours = [float(quantizer.scale[0]) for quantizer in quantizers if not quantizer.site.is_weight]
    for quantizer in quantizers:
        if quantizer.site.is_weight:
            stored = program.constants[quantizer.site.value.replace(".", "_")]
            torch.testing.assert_close(stored, quantizer(tensors[quantizer.site.value]).detach(), rtol=0, atol=1e-7)

    def scale(operation: Any) -> float:
        return float(program.constants[operation.inputs["scale"][0]])

    makers = {operation.output: operation for operation in program.operations}
    adds = [operation for operation in program.operations if operation.type == "add"]
    added = {operation.inputs[side][0] for operation in adds for side in ("x", "y")}
    dequantized = [operation for operation in program.operations if operation.type == "dequantize"]
    assert {scale(operation) for operation in dequantized if operation.output not in added} <= set(ours)
    assert len(adds) == 3
    for operation in adds:  # coremltools divides both sides of an add, and what rounds its sum, by one of the scales
        one, other = (scale(makers[operation.inputs[side][0]]) for side in ("x", "y"))
        assert min(abs(one / other - a / b) for a in ours for b in ours) < 1e-6 * one / other


@pytest.mark.parametrize(
    ("kind", "least_db", "system", "note"),
    [
        pytest.param("w8", 55, 8, "stored as int8 and compute in fp16", marks=pytest.mark.slow),
        ("w4", 55, 9, "stored as int4 and compute in fp16"),
        pytest.param("w4a8", 25, 9, "stored as int4 and compute in fp16", marks=pytest.mark.slow),
        ("calibrated", 30, 8, "This is what the program asks for"),
    ],
)
def test_every_precision_in_fp16(tmp_path: Path, kind: str, least_db: float, system: int, note: str) -> None:
    model = integers(kind)
    artifact = made(model, tmp_path)
    assert saved(artifact).specificationVersion == system  # iOS 17 or 18
    assert sqnr_db(expected(model, noise(model, 8)), answer(artifact, noise(model, 8))) > least_db
    report = coreml.audit(artifact)
    assert note in report.notes[0]
    convolutions = {layer.precision for layer in report.layers if layer.op == "conv"}
    assert convolutions == {"int8" if kind == "calibrated" else "fp16"}


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        (tiny, {"labels": LABELS}, "probability to each label"),
        (tiny, {"labels": ("ant", "bee"), "softmax": True}, "2 different labels were given for 3 classes"),
        (tiny, {"labels": ("ant", "ant", "bee"), "softmax": True}, "2 different labels"),
        (tiny, {"preprocess": True, "batch": 2}, "one at a time, not 2"),
        (tiny, {"weights": "int8", "minimum_deployment_target": "iOS15"}, "needs iOS16"),
        (lambda: integers("w8"), {"weights": "palette4"}, "integers already"),
        (lambda: integers("w8"), {"minimum_deployment_target": "iOS15"}, "needs iOS16"),
        (lambda: integers("int8"), {"minimum_deployment_target": "iOS16"}, "needs iOS17"),
        (lambda: integers("w4"), {"minimum_deployment_target": "iOS17"}, "needs iOS18"),
    ],
)
def test_knobs_that_exclude_each_other_are_refused(
    tmp_path: Path, model: Callable[[], nn.Module], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        made(model(), tmp_path, **given)
    assert list(tmp_path.iterdir()) == []


def test_norms_that_cannot_be_folded_are_computed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(3), nn.BatchNorm2d(8)
    body = nn.Sequential(norms[0], nn.ReLU(), nn.Conv2d(3, 8, 3), nn.ReLU(), norms[1], nn.AdaptiveAvgPool2d(1))
    model = custom(nn.Sequential(body, nn.Flatten()), classes=8)
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    artifact = made(model, tmp_path, floats="fp32")
    np.testing.assert_allclose(answer(artifact, noise(model, 3)), expected(model, noise(model, 3)), atol=1e-5)


def test_ranges_found_at_run_time_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no ranges that are found at run time"):
        made(placed("dynamic"), tmp_path)


def test_what_coremltools_cannot_convert_is_refused_in_a_sentence(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i0e(x.mean((2, 3))) * self.scale

    with pytest.raises(InputRefused, match=r"^coremltools can't convert the model: .*\. Export to onnx\.$"):
        made(custom(Odd()), tmp_path)


def test_nothing_is_printed_and_logging_comes_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    before = logging.root.manager.disable
    made(tiny(), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == before


def test_only_macos_can_time_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert coreml.rung()[0] == "L2"
    assert "interpreter" in coreml.rung()[1]
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert coreml.rung() == ("L3", "")
