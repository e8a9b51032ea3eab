"""The interpreter of Core ML programs: what it tells of a package, how it stores values, and all that it refuses."""

import contextlib
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescompress.backends._coreml_interpreter import Program
from rescompress.errors import InputRefused
from tests.backends.mil import loaded, needs_coremltools, noise, ran, save, silent

pytestmark = needs_coremltools
X, WEIGHT, BIAS = noise(2, 40), noise(30, 40, seed=1), noise(30, seed=2)
PIXELS = np.random.default_rng(4).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)


def dense(mb: Any, x: Any, dtype: type[np.floating[Any]] = np.float32) -> Any:
    weight, bias = (mb.const(val=values.astype(dtype)) for values in (WEIGHT, BIAS))
    return mb.relu(x=mb.linear(x=x, weight=weight, bias=bias, name="fc"), name="out")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear layer and a ReLU in FP32, to be read only."""
    return save(tmp_path_factory.mktemp("package") / "model.mlpackage", dense, {"x": X})


@pytest.fixture
def copied(package: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(package, tmp_path / "model.mlpackage"))


def spec_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "model.mlmodel"


def weights_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def edited(package: Path, edit: Any) -> Path:
    """The package after a change to its specification; ``edit`` gets it and the operations of its program."""
    with silent():
        from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString(spec_file(package).read_bytes())
    function = spec.mlProgram.functions["main"]
    edit(spec, {operation.type: operation for operation in function.block_specializations[function.opset].operations})
    spec_file(package).write_bytes(spec.SerializeToString())
    return package


def test_program_tells_what_it_takes_gives_and_does(package):
    program = Program(package)
    (taken,), (given,) = program.inputs, program.outputs
    assert (taken.name, taken.form, taken.shape, taken.dtype) == ("x", "array", (2, 40), "fp32")
    assert (given.name, given.form, given.shape, given.dtype) == ("out", "array", (2, 30), "fp32")
    linear, relu = (operation for operation in program.operations if operation.type != "const")
    assert (linear.type, linear.name, linear.output, linear.dtype) == ("linear", "fc", "fc", "fp32")
    assert (relu.type, relu.inputs, relu.output) == ("relu", {"x": ("fc",)}, "out")
    np.testing.assert_array_equal(program.constants[linear.inputs["weight"][0]], WEIGHT)
    assert program.labels == ()
    answer = program.run({"x": X})["out"]
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, np.maximum(X @ WEIGHT.T + BIAS, 0), rtol=1e-5, atol=1e-5)


def test_answers_are_no_views_of_inputs_or_constants(package):
    program = loaded(lambda mb, x: mb.identity(x=x, name="out"), {"x": X})
    before, given = X.copy(), X.copy()
    program.run({"x": given})["out"][:] = 0
    np.testing.assert_array_equal(given, before)
    np.testing.assert_array_equal(program.run({"x": given})["out"], before)


def test_half_programs_round_after_each_operation_and_sum_in_single():
    x, weight, bias = (values.astype(np.float16) for values in (X, WEIGHT, BIAS))
    sums = (x.astype(np.float64) @ weight.T.astype(np.float64) + bias).astype(np.float32)
    expected = np.maximum(sums.astype(np.float16), 0)
    np.testing.assert_array_equal(ran(partial(dense, dtype=np.float16), x=x), expected)

    def chain(mb: Any, x: Any) -> Any:
        return mb.sub(x=mb.add(x=x, y=np.float16(1000)), y=np.float16(1000))

    np.testing.assert_array_equal(ran(chain, x=x), (x + np.float16(1000)) - np.float16(1000))
    assert not np.allclose(ran(chain, x=x), x.astype(np.float32), atol=1e-2)  # what no rounding would give


def test_half_overflows_to_infinity():
    assert np.isinf(ran(lambda mb, x: mb.mul(x=x, y=np.float16(60000)), x=np.full((1, 2), 2, np.float16))).all()


@pytest.mark.parametrize("layout", ["RGB", "BGR"])
@pytest.mark.parametrize("precision", ["FLOAT32", "FLOAT16"])
def test_pixels_are_scaled_shifted_and_turned_as_the_image_input_says(layout, precision, tmp_path):
    import coremltools as ct

    image = ct.ImageType(
        name="x", shape=(1, 3, 5, 4), scale=1 / 32, bias=[-1.0, 0.5, 2.0], color_layout=getattr(ct.colorlayout, layout)
    )
    path = save(
        tmp_path / "model.mlpackage",
        lambda mb, x: mb.relu(x=x, name="out"),
        {"x": np.zeros((1, 3, 5, 4), np.float32)},
        inputs=[image],
        pass_pipeline=ct.PassPipeline.DEFAULT,
        compute_precision=getattr(ct.precision, precision),
    )
    program = Program(path)
    (port,) = program.inputs
    assert (port.form, port.shape, port.dtype, port.colours) == ("image", (None, 5, 4, 3), "uint8", layout)
    ordered = PIXELS if layout == "RGB" else PIXELS[..., ::-1]
    expected = np.maximum(ordered / 32 + np.array([-1, 0.5, 2]), 0).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(program.run({"x": PIXELS})["out"], expected.astype(np.float32))


@pytest.mark.parametrize("labels", [["cat", "dog", "bird"], [30, 10, 20]], ids=["names", "numbers"])
def test_classifier_gives_probabilities_in_the_order_of_its_labels(labels, tmp_path):
    import coremltools as ct

    path = save(
        tmp_path / "model.mlpackage",
        lambda mb, x: mb.softmax(x=x, name="out"),
        {"x": X[:1, :3]},
        classifier_config=ct.ClassifierConfig(labels),
        pass_pipeline=ct.PassPipeline.DEFAULT,
    )
    program = Program(path)
    assert program.labels == tuple(map(str, labels))
    (port,) = program.outputs
    assert (port.form, port.shape) == ("probabilities", (None, 3))
    (answer,) = program.run({"x": X[:1, :3]}).values()
    np.testing.assert_allclose(answer, np.exp(X[:1, :3]) / np.exp(X[:1, :3]).sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "fact"),
    [
        ({}, "takes x, not nothing"),
        ({"y": X}, "takes x, not y"),
        ({"x": X[:1]}, "(2, 40) in float32, not (1, 40)"),
        ({"x": X.astype(np.float64)}, "not (2, 40) in float64"),
    ],
)
def test_other_inputs_are_refused(inputs, fact, package):
    with pytest.raises(InputRefused) as refused:
        Program(package).run(inputs)
    assert fact in refused.value.fact


def rename(kind: str, name: str) -> Any:
    def edit(_: Any, operations: dict[str, Any]) -> None:
        operations[kind].type = name

    return edit


def add_parameter(_: Any, operations: dict[str, Any]) -> None:
    operations["relu"].inputs["leak"].CopyFrom(operations["relu"].inputs["x"])


def drop_parameter(_: Any, operations: dict[str, Any]) -> None:
    del operations["linear"].inputs["weight"]


def read_nothing(_: Any, operations: dict[str, Any]) -> None:
    operations["relu"].inputs["x"].arguments[0].name = "nowhere"


def state_dtype(number: int) -> Any:
    def edit(_: Any, operations: dict[str, Any]) -> None:
        operations["relu"].outputs[0].type.tensorType.dataType = number

    return edit


def state_shape(_: Any, operations: dict[str, Any]) -> None:
    operations["relu"].outputs[0].type.tensorType.dimensions[1].constant.size = 31


def move_weights(offset: int) -> Any:
    def edit(_: Any, operations: dict[str, Any]) -> None:
        operations["const"].attributes["val"].blobFileValue.offset = offset

    return edit


def point_elsewhere(_: Any, operations: dict[str, Any]) -> None:
    operations["const"].attributes["val"].blobFileValue.fileName = "@model_path/../../../weight.bin"


def rename_input(spec: Any, _: Any) -> None:
    spec.description.input[0].name = "fc"


def describe_inner(spec: Any, _: Any) -> None:
    spec.description.output[0].name = "fc"


def describe_half(spec: Any, _: Any) -> None:
    spec.description.input[0].type.multiArrayType.dataType = 65552


def forget_program(spec: Any, _: Any) -> None:
    spec.ClearField("mlProgram")


def add_function(spec: Any, _: Any) -> None:
    spec.mlProgram.functions["other"].CopyFrom(spec.mlProgram.functions["main"])


FP16, FP64, INT32 = 10, 12, 23
SPOILED = {
    "operation": (rename("relu", "gelu"), "doesn't know the operation gelu out"),
    "parameter": (add_parameter, "In relu out the interpreter doesn't know leak"),
    "no parameter": (drop_parameter, "misses weight"),
    "no value": (read_nothing, "reads nowhere, which nothing has made"),
    "dtype": (state_dtype(FP64), "The output of relu out is FLOAT64"),
    "half": (state_dtype(FP16), "relu out turns fp32 into fp16"),
    "integers": (state_dtype(INT32), "relu out turns fp32 into int32"),
    "shape": (state_shape, "relu out makes (2, 30) in float32"),
    "offset": (move_weights(10), "does not hold const"),
    "past the end": (move_weights(10**9), "past the end"),
    "outside": (point_elsewhere, "outside of it"),
    "input": (rename_input, "are not its program's"),
    "output": (describe_inner, "are not its program's"),
    "described dtype": (describe_half, "x is a multiArrayType of a kind"),
    "no program": (forget_program, "holds no ML program"),
    "functions": (add_function, "exactly one function"),
}


@pytest.mark.parametrize("damage", SPOILED)
def test_programs_that_are_not_known_through_and_through_are_refused_by_name(damage, copied):
    edit, fact = SPOILED[damage]
    with pytest.raises(InputRefused) as refused:
        Program(edited(copied, edit)).run({"x": X})
    assert fact in refused.value.fact
    assert refused.value.fact.endswith(".")


def test_constant_of_another_type_than_the_one_in_the_file_is_refused(copied):
    def edit(_: Any, operations: dict[str, Any]) -> None:
        for stated in (operations["const"].outputs[0].type, operations["const"].attributes["val"].type):
            stated.tensorType.dataType = INT32

    with pytest.raises(InputRefused, match="as 30 values of int32"):
        Program(edited(copied, edit))


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (None, "is missing"),
        ("{", "is missing, or does not say"),
        ("{}", "is missing, or does not say"),
        (json.dumps({"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "../../x"}}}), "outside of it"),
        (json.dumps({"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "nothing"}}}), "can't be read"),
    ],
)
def test_damaged_manifest_is_refused(content, fact, copied):
    manifest = copied / "Manifest.json"
    manifest.unlink() if content is None else manifest.write_text(content, "utf-8")
    with pytest.raises(InputRefused, match=fact):
        Program(copied)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3))
def test_flipped_bytes_are_refused_in_a_sentence_or_change_values_only(damage, package, copied):
    content = bytearray(spec_file(package).read_bytes())
    for place, byte in damage:
        content[int(place * len(content))] = byte
    spec_file(copied).write_bytes(content)
    with contextlib.suppress(InputRefused):
        Program(copied).run({"x": X})


def test_path_with_a_null_byte_is_refused(copied):
    def edit(_: Any, operations: dict[str, Any]) -> None:
        operations["const"].attributes["val"].blobFileValue.fileName = "@model_path/weights\0"

    with pytest.raises(InputRefused, match="outside of it"):
        Program(edited(copied, edit))


def test_damaged_specification_is_refused(copied):
    spec_file(copied).write_bytes(spec_file(copied).read_bytes()[:-7])
    with pytest.raises(InputRefused, match="can't be read"):
        Program(copied)


@pytest.mark.parametrize("size", [0, 100, 400, 5000])
def test_shortened_weights_are_refused(size, copied):
    weights_file(copied).write_bytes(weights_file(copied).read_bytes()[:size])
    with pytest.raises(InputRefused, match=r"can't be read|past the end|ends before"):
        Program(copied)


def test_missing_weights_are_refused(copied):
    weights_file(copied).unlink()
    with pytest.raises(InputRefused, match="can't be read"):
        Program(copied)


def test_constants_are_what_the_vendor_reads(package):
    with silent():
        from coremltools.libmilstoragepython import _BlobStorageReader

    reader = _BlobStorageReader(str(weights_file(package)))
    program, found = Program(package), []

    def edit(_: Any, operations: dict[str, Any]) -> None:
        found.append(operations["const"].attributes["val"].blobFileValue.offset)

    edited(package, edit)
    bias = next(operation for operation in program.operations if operation.type == "linear").inputs["bias"][0]
    np.testing.assert_array_equal(reader.read_float_data(found[0]), program.constants[bias])
