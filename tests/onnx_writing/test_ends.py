"""What goes into a file and what comes out of it: pixels, probabilities, one batch, notes, names; and its size."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from rescompress import data, models, onnx_writing
from rescompress.errors import RecipeError
from rescompress.onnx_writing import ends
from rescompress.schemes import TENSORRT
from rescompress.spec import ModelSpec, Preprocessing
from tests.networks import cached, fused, placed

pytestmark = pytest.mark.xdist_group("half")

onnx = pytest.importorskip("onnx")

SPEC = ModelSpec("none", "none", 3, Preprocessing(8, 8, (0.1, 0.5, 0.9), (0.2, 0.25, 0.5)))


def sums(classes: bool = True) -> Any:
    """A graph that sums each channel: three logits; or gives the images back, as maps."""
    helper, axes = onnx.helper, onnx.numpy_helper.from_array(np.array([2, 3]), "axes")
    if classes:
        node, shape = helper.make_node("ReduceSum", ["images", "axes"], ["logits"], "sum", keepdims=0), ["n", 3]
    else:
        node, shape = helper.make_node("Identity", ["images"], ["map0"], "same"), ["n", 3, 8, 8]
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])
    output = helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], "sums", [images], [output], [axes] if classes else [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def computed(proto: Any, **given: Any) -> Any:
    from onnx.reference import ReferenceEvaluator

    onnx.checker.check_model(proto, full_check=True)
    return ReferenceEvaluator(proto).run(None, given)[0]


def pixels(count: int = 3) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def test_pixels_are_normalized_as_the_data_is() -> None:
    proto = sums(classes=False)
    ends.take_pixels(proto, SPEC.preprocessing)
    (taken,) = proto.graph.input
    assert (taken.name, taken.type.tensor_type.elem_type) == ("pixels", onnx.TensorProto.UINT8)
    images = pixels()
    expected = data.normalize(torch.from_numpy(images.transpose(0, 3, 1, 2)), SPEC.preprocessing).numpy()
    np.testing.assert_allclose(computed(proto, pixels=images), expected, rtol=1e-5, atol=1e-6)


def test_probabilities_are_the_softmax_of_the_logits() -> None:
    proto, images = sums(), np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    ends.give_probabilities(proto)
    expected = np.exp(images.sum((2, 3)).astype(np.float64))
    answer = computed(proto, images=images)
    np.testing.assert_allclose(answer, expected / expected.sum(1, keepdims=True), rtol=1e-4, atol=1e-6)
    assert [value.name for value in proto.graph.output] == ["probabilities"]


def test_without_classes_there_are_no_probabilities() -> None:
    with pytest.raises(RecipeError, match="no classifier"):
        ends.give_probabilities(sums(classes=False))


@pytest.mark.parametrize("first", ["batch", "pixels"])
def test_one_batch_and_no_other(first: str) -> None:
    proto = sums()
    if first == "batch":
        ends.fix_batch(proto, 4)
    ends.take_pixels(proto, SPEC.preprocessing)
    if first == "pixels":
        ends.fix_batch(proto, 4)
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*proto.graph.input, *proto.graph.output)]
    assert shapes == [[4, 8, 8, 3], [4, 3]]
    assert computed(proto, pixels=pixels(4)).shape == (4, 3)


def test_the_file_says_what_it_is() -> None:
    proto = sums()
    ends.describe(proto, SPEC, ["Katze", "犬", 'a "b"'], {"recipe_sha256": "0" * 64})
    said = {prop.key.removeprefix("rescompress."): prop.value for prop in proto.metadata_props}
    assert said["model"] == "none none, 3 classes"
    assert (said["mean"], said["std"]) == ("(0.1, 0.5, 0.9)", "(0.2, 0.25, 0.5)")
    assert (said["resize"], said["crop"], said["recipe_sha256"]) == ("8", "8", "0" * 64)
    assert json.loads(said["labels"]) == ["Katze", "犬", 'a "b"']
    with pytest.raises(RecipeError, match="2 labels for 3 classes"):
        ends.describe(sums(), SPEC, ["a", "b"], {})


@cached
def whole() -> Any:
    """INT8 for TensorRT with everything on."""
    model = placed("int8", TENSORRT)
    names = [f"class {k}" for k in range(10)]
    return onnx_writing.proto_of(
        model, models.spec_of(model), 19, floats="fp16", preprocess=True, softmax=True, batch=2, labels=names
    )


def test_everything_at_once_is_a_valid_file_that_says_what_eager_says() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = placed("int8", TENSORRT)
    assert [entry.version for entry in whole().opset_import] == [19]
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(whole().SerializeToString(), options, providers=["CPUExecutionProvider"])
    answer = session.run(["probabilities"], {"pixels": images})[0]
    normal = data.normalize(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), models.spec_of(model).preprocessing)
    expected = models.predict(model, [normal]).softmax(1).numpy()
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, expected, atol=0.05)


def test_layers_bear_the_modules_names_and_attributes_that_go_without_saying_are_left_out() -> None:
    nodes = {node.name: node for node in whole().graph.node}
    assert len(nodes) == len(whole().graph.node)
    assert {"conv1", "layer1.0.conv1", "layer1.0.add", "layer2.0.shortcut", "linear"} <= set(nodes)
    said = {name: {item.name for item in node.attribute} for name, node in nodes.items()}
    assert said["layer1.0.conv1"] == {"kernel_shape", "pads"}
    assert said["layer2.0.shortcut"] == {"kernel_shape", "strides"}


@pytest.mark.slow
def test_names_weigh_little_even_in_a_small_network() -> None:
    small, large = placed("int8", architecture="resnet20"), fused("cifar", "resnet20")
    sizes = [onnx_writing.proto_of(model, models.spec_of(model), 21).ByteSize() for model in (small, large)]
    assert 0.25 < sizes[0] / sizes[1] <= 0.27
