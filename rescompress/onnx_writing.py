"""A model, float or quantized, as one tidy ONNX file: what every backend that reads ONNX starts from."""

import ast
import contextlib
import warnings
from collections import Counter
from typing import Any

import torch
from torch import nn

from rescompress import fakequant
from rescompress.graph import evaluating
from rescompress.spec import ModelSpec


def proto_of(model: nn.Module, spec: ModelSpec, opset: int) -> Any:
    """The ``onnx.ModelProto``: dynamic batch, INT8 weights stored as INT8, nodes named after the modules.

    Args:
        model: float or quantized.
        spec: the model's.
        opset: version of the ONNX operator set.
    """
    import onnx

    program = fakequant.lower(model) if fakequant.sites_of(model) else model  # type: ignore[arg-type]
    example = torch.zeros(2, *spec.input_shape)
    with warnings.catch_warnings(), contextlib.redirect_stdout(None), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program.eval() if program is model else program,
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=_output_names(program, example),
            dynamic_shapes=({0: torch.export.Dim("n")},),
            external_data=False,
            verbose=False,
        )
    assert exported is not None
    proto = exported.model_proto
    _tidy(proto, spec)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _output_names(program: nn.Module, example: torch.Tensor) -> list[str]:
    """``logits``, or ``map0``, ``map1`` and so on."""
    with evaluating(program), torch.no_grad():
        outputs = program(example)
    return ["logits"] if isinstance(outputs, torch.Tensor) else [f"map{place}" for place in range(len(outputs))]


def _tidy(proto: Any, spec: ModelSpec) -> None:
    """Name nodes and values after modules, and drop what the exporter notes about our source files."""
    taken: Counter[str] = Counter()
    renamed = {tensor.name: _plain(tensor.name).removesuffix(".integers") for tensor in proto.graph.initializer}
    for tensor in proto.graph.initializer:
        tensor.name = renamed[tensor.name]
    outputs = {value.name for value in proto.graph.output}
    for node in proto.graph.node:
        _use_global_pool(node, proto.graph)
        name = _name_from_scopes(node)
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name] - 1}"
        if node.output[0] not in outputs:
            renamed[node.output[0]] = f"{node.name}/out"
    for node in proto.graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.value_info[:]
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    for graph_part in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del graph_part.metadata_props[:]
    for key, value in {"model": str(spec), "mean": spec.preprocessing.mean, "std": spec.preprocessing.std}.items():
        proto.metadata_props.add(key=f"rescompress.{key}", value=str(value))


def _plain(name: str) -> str:
    """A quantizer's module path as the name of the value that it quantizes; other names as they are."""
    if not name.startswith(fakequant.PREFIX):
        return name
    return name.removeprefix(fakequant.PREFIX).replace(fakequant.LOWERED, "", 1).replace("/", ".")


def _use_global_pool(node: Any, graph: Any) -> None:
    """Say GlobalAveragePool where the exporter says ReduceMean: ONNX Runtime has only the former in INT8."""
    import onnx

    axes = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in axes:
        return
    keeps = all(attribute.i == 1 for attribute in node.attribute if attribute.name == "keepdims")
    if keeps and sorted(int(axis) % 4 for axis in axes[node.input[1]]) == [2, 3]:
        node.op_type = "GlobalAveragePool"
        del node.input[1], node.attribute[:]


def _name_from_scopes(node: Any) -> str:
    """Module path and op, such as ``layer1.0.add``; layers with weights bear the bare module path."""
    noted = next((prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"), "['']")
    scopes = ast.literal_eval(noted)
    path = _plain(scopes[-2]) if len(scopes) > 1 else ""
    op = node.op_type.lower()
    if path and (node.op_type in ("Conv", "Gemm") or path.rpartition(".")[2] == op):
        return str(path)
    return f"{path}.{op}" if path else op
