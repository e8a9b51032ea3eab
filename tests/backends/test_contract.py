"""Every backend of the folder exports, runs, audits and refuses alike, float and in INT8, with and without SE."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rescompress import backends, fakequant, graph, models
from rescompress.artifact import Artifact, Manifest
from rescompress.backends import Backend
from rescompress.errors import InputRefused
from rescompress.metrics import sqnr_db
from rescompress.quantization import quantize
from rescompress.schemes import ONNXRUNTIME, SCHEMES
from tests.networks import cached, context, fused, noise, placed

pytestmark = pytest.mark.xdist_group("contract")

KNOBS = {"coreml": {"floats": "fp32"}, "tensorrt": {"floats": "fp32"}}
"""Knobs of backends whose defaults compute in less than FP32."""
MODELS = ("float", "int8", pytest.param("se int8", marks=pytest.mark.slow))


SLOW = ("inductor",)  # compiles for half a minute


@pytest.fixture(
    scope="module",
    params=[pytest.param(each, marks=pytest.mark.slow) if each in SLOW else each for each in backends.names()],
)
def name(request: pytest.FixtureRequest) -> str:
    backend = backends.get(request.param)
    if backend.missing():
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@cached
def model_of(kind: str, name: str) -> nn.Module:
    family, architecture = ("se", "se_resnet18") if kind.startswith("se") else ("cifar", "resnet8")
    model = fused(family, architecture) if family == "cifar" else fused(family, architecture, side=32)
    runtime = name if name in SCHEMES else "onnxruntime"
    return quantize(model, context(), runtime=runtime) if kind.endswith("int8") else model


def files_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def export(name: str, model: nn.Module, folder: Path) -> str:
    return backends.get(name).export(model, models.spec_of(model), folder, **KNOBS.get(name, {}))


def artifact_in(folder: Path, entry: str, name: str, model: nn.Module) -> Artifact:
    spec = models.spec_of(model)
    files = {path.relative_to(folder).as_posix(): "" for path in files_in(folder)}
    manifest = Manifest("", "", name, "", "", entry, files, spec, "", "", "")
    return Artifact(folder, manifest)


@pytest.fixture(scope="module", params=MODELS)
def made(
    request: pytest.FixtureRequest, name: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Backend, nn.Module, Artifact]:
    backend, model = backends.get(name), model_of(request.param, name)
    folder = tmp_path_factory.mktemp("artifact")
    try:
        entry = export(name, model, folder)
    except InputRefused as refused:
        if backend.SCHEME is None and fakequant.sites_of(model):
            pytest.skip(f"{name} has no integers: {refused.fact}")
        raise
    return backend, model, artifact_in(folder, entry, name, model)


def test_it_computes_what_eager_computes_alone_and_in_a_batch(made: tuple[Backend, nn.Module, Artifact]) -> None:
    backend, model, artifact = made
    images = noise(model, 8)
    expected = models.predict(model, [images]).numpy()
    with backend.load(artifact, threads=1) as session:
        answer, alone = session.run(images.numpy()), session.run(images[:1].numpy())
    # TensorRT's signed scales are twice as coarse behind a ReLU, so a value that rounds the other way costs 6 dB more
    least = (24 if artifact.manifest.backend == "tensorrt" else 30) if fakequant.sites_of(model) else 90
    assert answer.shape == expected.shape
    assert answer.dtype == np.float32
    assert sqnr_db(expected, answer) > least
    assert sqnr_db(answer[:1], alone) > least


def test_the_answer_outlives_the_next_question(made: tuple[Backend, nn.Module, Artifact]) -> None:
    backend, model, artifact = made
    images = noise(model, 4).numpy()
    with backend.load(artifact, threads=1) as session:
        first = session.run(images[:2])
        copy = first.copy()
        session.run(images[2:])
    np.testing.assert_array_equal(first, copy)


def test_the_audit_names_every_layer_and_its_precision(made: tuple[Backend, nn.Module, Artifact]) -> None:
    backend, model, artifact = made
    report = backend.audit(artifact)
    traced = graph.capture(model, models.spec_of(model).input_shape)
    layers = {name: graph.op_of(node) for name, node in graph.values(traced).items()}
    wanted = {name: op for name, op in layers.items() if op in ("conv", "linear")}
    assert {layer.layer: layer.op for layer in report.layers if layer.op in ("conv", "linear")} == wanted
    quantized = bool(fakequant.sites_of(model)) and backend.SCHEME is not None
    # which adds TensorRT will compute in INT8 is foretold by rules that have tests of their own
    ops = ("conv",) if artifact.manifest.backend == "tensorrt" else ("conv", "add")
    judged = [layer for layer in report.layers if layer.op in ops]
    assert {layer.precision for layer in judged} == {"int8" if quantized else "fp32"}
    assert sum(layer.op == "add" for layer in report.layers) == list(layers.values()).count("add")
    assert sum(report.op_counts.values()) >= report.int8_nodes.total > 0
    least = 50 if artifact.manifest.backend == "tensorrt" else 60  # a fused kernel counts once, float ones each
    assert report.int8_nodes.percent > least if quantized else report.int8_nodes.correct == 0


def test_weights_are_stored_in_one_byte_each(made: tuple[Backend, nn.Module, Artifact]) -> None:
    _, model, artifact = made
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)
    size = max(path.stat().st_size for path in files_in(artifact.folder) if path.suffix != ".xml")
    assert size < 2 * weights if fakequant.sites_of(model) else size > 4 * weights


@pytest.mark.slow
def test_int8_takes_little_more_than_a_quarter_of_the_space(name: str, tmp_path: Path) -> None:
    """In small networks, names and scales weigh more: of ResNet-20, ONNX takes 0.270 of FP32, an OpenVINO IR 0.33."""
    if name == "inductor":
        pytest.skip("inductor stores no integers.")
    sizes = []
    for model in (
        fused("torchvision", "resnet18", side=32),
        placed("int8", backends.get(name).SCHEME or ONNXRUNTIME, "torchvision", "resnet18", 32),
    ):
        folder = tmp_path / str(len(sizes))
        folder.mkdir()
        export(name, model, folder)
        sizes.append(sum(path.stat().st_size for path in files_in(folder)))
    assert 0.25 < sizes[1] / sizes[0] <= 0.27


def test_the_same_model_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    model, files = model_of("float" if name == "inductor" else "int8", name), []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        export(name, model, folder)
        files.append({path.relative_to(folder): path.read_bytes() for path in files_in(folder)})
    assert files[0] == files[1]
    text = b"".join(files[0].values())
    assert str(tmp_path).encode() not in text
    assert b".py" not in text


def test_a_broken_file_is_refused_in_a_sentence(
    made: tuple[Backend, nn.Module, Artifact], name: str, tmp_path: Path
) -> None:
    backend, model, artifact = made
    folder = tmp_path / "broken"
    shutil.copytree(artifact.folder, folder)
    (folder / artifact.manifest.entry).write_bytes(b"not a model")
    with pytest.raises(InputRefused, match=r"can't load .*\.$") as caught:
        backend.load(artifact_in(folder, artifact.manifest.entry, name, model), threads=1)
    assert caught.value.remedy == "Export the model again."


def test_threads_are_what_was_asked_for(made: tuple[Backend, nn.Module, Artifact]) -> None:
    backend, model, artifact = made
    with torch.no_grad(), backend.load(artifact, threads=2) as session:
        assert session.run(noise(model, 1).numpy()).shape == (1, 10)
