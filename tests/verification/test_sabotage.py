"""Every fault that an export can have is caught, and the layer that it lies in is named; healthy twins pass."""

from dataclasses import replace
from pathlib import Path

import pytest

import rescompress
from rescompress.artifact import open_artifact, write_artifact
from rescompress.context import Context
from rescompress.data import Data, InMemory
from rescompress.errors import RescompressError
from rescompress.fusion import fuse
from rescompress.pipeline.proof import export_artifact
from rescompress.quantization import quantize
from rescompress.verification import verify
from tests.verification.sabotage import ANY, FLOAT_ONLY, INT8_ONLY, Graph

pytest.importorskip("onnxruntime", reason="The graphs that are edited are ONNX Runtime's.")
CASES = [
    *((kind, fault) for kind in ("float", "int8") for fault in ANY),
    *(("float", fault) for fault in FLOAT_ONLY),
    *(("int8", fault) for fault in INT8_ONLY),
]
QUICK = {("float", "residual dropped"), ("float", "another epsilon"), ("float", "weights clipped")}


@pytest.fixture(scope="module")
def trained_model():
    return rescompress.load("digits_resnet20")


@pytest.fixture(scope="module")
def few(trained_model) -> Data:
    """The digits, with the first 80 test images alone."""
    data = Context.of(trained_model, "digits").data
    test = InMemory(data.test.read(range(80)), data.test.labels[:80])
    return replace(data, test=test)


@pytest.fixture(scope="module")
def twins(trained_model, few, tmp_path_factory):
    """Makes an artifact of the shipped network, and gives it with its model, once for each kind."""
    made = {}

    def twin(kind):
        if kind not in made:
            context = Context.of(trained_model, "digits")
            model = fuse(trained_model, context)
            model = quantize(model, context, runtime="onnxruntime") if kind == "int8" else model
            folder = tmp_path_factory.mktemp("twins") / kind
            given = {"label": kind, "source": "", "source_sha256": "", "key": ""}
            made[kind] = export_artifact(model, "onnxruntime", {}, folder, **given).folder, model
        return made[kind]

    return twin


def sabotaged(artifact: Path, folder: Path, edit, **manifest) -> Path:
    """A copy whose file was changed and whose hashes are right again."""
    import onnx

    whole = open_artifact(artifact)

    def fill(empty):
        proto = onnx.load(whole.entry)
        edit(Graph(proto))
        (empty / whole.manifest.entry).write_bytes(proto.SerializeToString())
        return whole.manifest.entry

    return write_artifact(folder, fill, lambda entry, files: replace(whole.manifest, files=files, **manifest)).folder


def fault_of(kind, name):
    return {**ANY, **FLOAT_ONLY, **INT8_ONLY}[name]


@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow, id="-".join(case)) for case in CASES],
)
def test_a_fault_is_caught_and_its_layer_named(kind, name, twins, few, tmp_path):
    artifact, model = twins(kind)
    edit, layers = fault_of(kind, name)
    row = verify(sabotaged(artifact, tmp_path / "sabotaged", edit), model, few)
    assert row.failures
    assert row.rung == "L1"
    (named,) = [sentence for sentence in row.failures if "compute something else" in sentence]
    assert any(f" {layer} is the first" in named for layer in layers.split("|")), named


@pytest.mark.parametrize("kind", ["float", pytest.param("int8", marks=pytest.mark.slow)])
def test_the_healthy_twin_passes(kind, twins, few):
    artifact, model = twins(kind)
    row = verify(artifact, model, few)
    assert (row.failures, row.rung) == ((), "L2")
    assert row.evidence.layers
    assert not any(layer.departs for layer in row.evidence.layers)


@pytest.mark.slow
def test_a_float_file_in_the_place_of_an_int8_one_is_caught(twins, few, tmp_path):
    (floating, _), (_, model) = twins("float"), twins("int8")
    row = verify(sabotaged(floating, tmp_path / "silent", lambda graph: None, precision="int8"), model, few)
    assert any("should run in INT8 and don't" in sentence for sentence in row.failures)


def test_a_truncated_file_is_refused(twins, few, tmp_path):
    artifact, model = twins("float")
    whole = open_artifact(artifact)

    def fill(empty):
        content = whole.entry.read_bytes()
        (empty / whole.manifest.entry).write_bytes(content[: len(content) // 2])
        return whole.manifest.entry

    folder = write_artifact(tmp_path / "half", fill, lambda entry, files: replace(whole.manifest, files=files)).folder
    with pytest.raises(RescompressError):
        verify(folder, model, few)
