"""The exported integers mean what fake-quant says, by the ONNX standard's own evaluator, no runtime's kernels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

from rescompress import fakequant, graph, models
from rescompress.backends import onnxruntime as backend
from tests.networks import noise, quantized

pytestmark = pytest.mark.xdist_group("semantics")

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def model() -> fx.GraphModule:
    return quantized("cifar", "resnet8")


@pytest.fixture(scope="module")
def proto(model: fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("export")
    return onnx.load(folder / backend.export(model, models.spec_of(model), folder))


def test_the_standards_evaluator_agrees_with_eager(model: fx.GraphModule, proto: Any) -> None:
    """Both compute in float on the same grid, but sum in another order and round biases to the accumulator's steps.

    So a value that lies on the border of two steps may fall on either side. Each such flip moves one input of the
    classifier by a step; flips are rare and have both signs, so a few large ones bound the logits' difference.
    """
    images = noise(model, 4)
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator(proto)
    expected = models.predict(model, [images]).numpy()
    answer = evaluator.run(None, {"images": images.numpy()})[0]
    linear = next(node for node in model.graph.nodes if graph.op_of(node) == "linear")
    x = fakequant.quantizer_behind(model, linear.args[0])
    weight = graph.tensor_of(model, linear.args[1].args[0])
    assert x is not None
    few_steps = 4 * float(x.scale) * float(weight.detach().abs().max())
    assert np.abs(answer - expected).max() <= few_steps
    assert (answer.argmax(1) == expected.argmax(1)).all()


def test_weights_are_stored_as_int8_and_biases_as_int32(model: fx.GraphModule, proto: Any) -> None:
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer if len(tensor.dims) == 4}
    convolutions = [node for node in model.graph.nodes if graph.op_of(node) == "conv"]
    assert len(kinds) == len(convolutions)
    assert set(kinds.values()) == {onnx.TensorProto.INT8}
    floats = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1]
    assert {t.name for t in floats} == {"conv1.pixels.factor", "conv1.pixels.shift"}


def test_nothing_of_this_machine_is_in_the_file(proto: Any) -> None:
    text = str(proto)
    assert str(Path(__file__).parents[2]) not in text
    assert ".py" not in text


def test_the_batch_is_free(proto: Any) -> None:
    (images,) = proto.graph.input
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim][1:] == [3, 32, 32]
    assert images.type.tensor_type.shape.dim[0].dim_param


def test_with_biases_on_their_grid_eager_and_its_lowered_form_agree_to_the_bit(model: fx.GraphModule) -> None:
    moved_off = graph.clone(model)
    for name, value in moved_off.named_parameters():
        if name.endswith(".bias"):
            value.data.add_(0.001 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
    settled = graph.clone(moved_off)
    fakequant.round_biases(settled)
    images = noise(model, 4)
    with torch.no_grad():
        np.testing.assert_array_equal(settled(images).numpy(), fakequant.lower(settled)(images).numpy())
    once = {name: value.clone() for name, value in settled.named_parameters()}
    fakequant.round_biases(settled)
    assert all(torch.equal(value, once[name]) for name, value in settled.named_parameters())
    moved = [name for name, value in moved_off.named_parameters() if not torch.equal(value, once[name])]
    assert moved
    assert all(name.endswith(".bias") for name in moved)
