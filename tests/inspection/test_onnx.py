"""An ONNX graph is inspected like the model that it was exported from; a broken or lying one is refused."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rescompress import backends, models
from rescompress.errors import InputRefused
from rescompress.inspection import inspect, inspect_onnx
from rescompress.statedict.onnx_graph import read_onnx
from rescompress.statedict.sandbox import limits
from rescompress.views import Inspection
from tests.networks import fused, quantized

onnx = pytest.importorskip("onnx")
FLOAT = onnx.TensorProto.FLOAT


def exported(model: nn.Module, folder: Path) -> Inspection:
    backends.get("onnxruntime").export(model, models.spec_of(model), folder)
    return inspect_onnx(folder / "model.onnx")


def test_a_float_graph_costs_what_the_model_costs(tmp_path: Path) -> None:
    model = fused("cifar", "resnet8")
    ours, theirs = inspect(model), exported(model, tmp_path)
    assert theirs.total == ours.total
    assert (theirs.model, theirs.input_shape, theirs.ops) == (ours.model, ours.input_shape, ours.ops)
    assert theirs.blocks == ours.blocks
    assert theirs.findings == ours.findings
    assert theirs.groups == ()
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert other.sqnr_db == pytest.approx(one.sqnr_db, abs=0.01)
        assert replace(other, sqnr_db=one.sqnr_db, group=one.group) == one


def test_an_int8_graph_costs_what_the_model_costs(tmp_path: Path) -> None:
    model = quantized("cifar", "resnet8")
    ours, theirs = inspect(model), exported(model, tmp_path)
    assert theirs.total == ours.total
    assert {layer.weight_bits for layer in theirs.layers} == {8}
    assert [layer.activation_bytes for layer in theirs.layers] == [layer.activation_bytes for layer in ours.layers]
    assert {layer.sqnr_db for layer in theirs.layers if layer.params} == {None}  # it is lost already


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [True, False])
def test_what_pytorch_exports_by_itself_has_the_modules_names(dynamo: bool, tmp_path: Path) -> None:
    model, file = fused("cifar", "resnet8"), tmp_path / "plain.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(1, 3, 32, 32),), str(file), dynamo=dynamo, verbose=False, external_data=False
        )
    found = inspect_onnx(file)
    ours = inspect(model)
    assert (found.total.params, found.total.macs) == (ours.total.params, ours.total.macs)
    assert [layer.layer for layer in found.layers] == [layer.layer for layer in ours.layers]
    assert [block.name for block in found.blocks] == [block.name for block in ours.blocks]


def graph(
    nodes: list, constants: dict[str, list[int]], shape: tuple = ("n", 3, 8, 8), out: tuple = ("n", "k")
) -> bytes:
    """A file with these nodes from ``x`` to ``y`` and random constants."""
    generator = torch.Generator().manual_seed(0)
    made = [
        onnx.numpy_helper.from_array(torch.rand(*size, generator=generator).numpy(), name)
        for name, size in constants.items()
    ]
    x, y = (onnx.helper.make_tensor_value_info(n, FLOAT, s) for n, s in (("x", shape), ("y", out)))
    whole = onnx.helper.make_graph(nodes, "made up", [x], [y], made)
    opset = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(whole, opset_imports=opset, ir_version=9).SerializeToString()


def node(op: str, inputs: str, output: str, **attributes: object) -> object:
    return onnx.helper.make_node(op, inputs.split(), [output], name=f"the {op}", **attributes)


def test_a_graph_made_by_hand(tmp_path: Path) -> None:
    """A grouped convolution with a BatchNorm, a matrix product, and a bias that is added later."""
    file = tmp_path / "hand.onnx"
    nodes = [
        node("Conv", "x w", "a", group=3, strides=[2, 2], pads=[1, 1, 1, 1]),
        node("BatchNormalization", "a g b m v", "c"),
        node("Relu", "c", "d"),
        node("GlobalAveragePool", "d", "e"),
        node("Flatten", "e", "f"),
        node("MatMul", "f p", "h"),
        node("Add", "h q", "y"),
    ]
    norm = {name: [6] for name in "gbmv"}
    file.write_bytes(graph(nodes, {"w": [6, 1, 3, 3], **norm, "p": [6, 5], "q": [5]}))
    found = inspect_onnx(file)
    conv, linear = found.layers
    assert (conv.output_shape, conv.kernel, conv.groups, conv.stride) == ((6, 4, 4), (3, 3), 3, 2)
    assert (conv.params, conv.macs) == (54, 54 * 16)
    assert (linear.output_shape, linear.params, linear.macs) == ((5,), 30, 30)
    assert (found.total.params, found.total.macs) == (54 + 12 + 30 + 5, 54 * 16 + 30)
    assert found.total.weight_bytes == 4 * (54 + 24 + 30 + 5)
    assert found.blocks == ()
    assert {finding.kind for finding in found.findings} == {"odd channel counts", "narrow groups"}


def conv_file(**changes: object) -> bytes:
    return graph([node("Conv", "x w", "y")], {"w": [4, 3, 3, 3]}, **{"out": ("n", 4, 6, 6), **changes})


def elsewhere(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    return model.SerializeToString()


def lying(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    model.graph.initializer[0].dims[0] = 10**9
    return model.SerializeToString()


REFUSED = {
    "no ONNX at all": (lambda: b"\x89PNG and so on", "can't be read as an ONNX graph"),
    "empty": (lambda: b"", "can't be read as an ONNX graph"),
    "cut off": (lambda: conv_file()[:-200], "can't be read as an ONNX graph"),
    "weights in another file": (lambda: elsewhere(conv_file()), "keeps weights in another file"),
    "lying about a weight's size": (lambda: lying(conv_file()), "can't be read as an ONNX graph"),
    "unknown op": (lambda: graph([node("Magic", "x", "y")], {}), "can't be read as an ONNX graph"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_reader_refuses(case: str, tmp_path: Path) -> None:
    """In this process: a process for each would only take longer."""
    make, said = REFUSED[case]
    file, content = tmp_path / "odd.onnx", make()
    file.write_bytes(content)
    with pytest.raises(InputRefused) as caught:
        read_onnx(file, limits(len(content)))
    assert said in caught.value.fact
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"ONNX", "can't be read as an ONNX graph"), (None, "leaves the shape of its input open")],
)
def test_what_is_refused_names_the_file(content: bytes | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.onnx"
    file.write_bytes(content or conv_file(shape=("n", 3, "h", "w")))
    with pytest.raises(InputRefused, match=said) as caught:
        inspect_onnx(file)
    assert str(file) in caught.value.fact


def test_names_that_collide_and_sizes_that_contradict_each_other(tmp_path: Path) -> None:
    file = tmp_path / "odd.onnx"
    names = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Conv", "b w2", "c"), node("Relu", "c", "y")]
    names[0].name, names[1].name, names[2].name, names[3].name = "n", "n_1", "n", "n"
    file.write_bytes(graph(names, {"w": [4, 3, 3, 3], "w2": [4, 4, 3, 3]}))
    found = inspect_onnx(file)
    assert [layer.layer for layer in found.layers] == ["n", "n_2"]
    nodes = [node("Conv", "x w", "a"), node("BatchNormalization", "a g g g g", "y")]
    file.write_bytes(graph(nodes, {"w": [4, 3, 3, 3], "g": [5]}))
    with pytest.raises(InputRefused, match="contradicts itself"):
        inspect_onnx(file)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="There is no file"):
        inspect_onnx(tmp_path / "none.onnx")


def test_names_from_a_file_are_fit_for_a_terminal(tmp_path: Path) -> None:
    file, model = tmp_path / "names.onnx", onnx.load_from_string(conv_file())
    model.graph.node[0].name = "\x1b[2J[red]<script>" + 500 * "x"
    file.write_bytes(model.SerializeToString())
    (layer,) = inspect_onnx(file).layers
    assert layer.layer.isprintable()
    assert len(layer.layer) <= 80
