"""Names after modules for the nodes and values that the exporter numbered; what it noted about our files is gone."""

import ast
from collections import Counter
from typing import Any

from rescompress import fakequant

SHORT = {"QuantizeLinear": "q", "DequantizeLinear": "dq"}
"""What the commonest ops are called: in small networks names make up a tenth of an INT8 file."""


def tidy(proto: Any) -> None:
    """Name nodes and values after modules, and drop what the exporter notes about our source files, in place.

    Args:
        proto: an ``onnx.ModelProto`` from ``torch.onnx.export``.
    """
    taken: Counter[str] = Counter()
    version = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    renamed = {tensor.name: plain(tensor.name).removesuffix(".integers") for tensor in proto.graph.initializer}
    for tensor in proto.graph.initializer:
        tensor.name = renamed[tensor.name]
    outputs = {value.name for value in proto.graph.output}
    for node in proto.graph.node:
        name = _name_from_scopes(node)
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name] - 1}"
        if node.output[0] not in outputs:
            renamed[node.output[0]] = node.name
    for node in proto.graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
        _drop_defaults(node, version)
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.value_info[:]
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    for graph_part in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del graph_part.metadata_props[:]


def shorten(graph: Any) -> None:
    """Number constants, what dequantizes them and what makes integers; biases lose their zero-point 0; in place.

    Args:
        graph: an ``onnx.GraphProto`` whose nodes and values are named after modules.
    """
    from onnx import TensorProto

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    numbered = [name for name in tensors if name.startswith("val_")]
    renamed = {name: f"c{number}" for number, name in enumerate(numbered)}
    opened = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    for number, node in enumerate(opened):
        renamed[node.output[0]] = node.name = f"dq{number}"
        if tensors[node.input[0]].data_type == TensorProto.INT32:
            del node.input[2:]
    rounded = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    for number, node in enumerate(rounded):
        renamed[node.output[0]] = node.name = f"q{number}"
    for tensor in tensors.values():
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]


def _drop_defaults(node: Any, version: int) -> None:
    """Remove the attributes that say what the standard says anyway, in place."""
    from onnx import defs

    known = defs.get_schema(node.op_type, version, node.domain).attributes
    kept = [item for item in node.attribute if item.name not in known or item != _default(known[item.name], item)]
    del node.attribute[:]
    node.attribute.extend(kept)


def _default(known: Any, item: Any) -> Any:
    """An attribute as it would be if it weren't written; of convolutions, the standard says it in words only."""
    from onnx import helper

    said = {"strides": 1, "dilations": 1, "pads": 0}
    if item.name in said and not known.default_value.type:
        return helper.make_attribute(item.name, [said[item.name]] * len(item.ints))
    return known.default_value


def plain(name: str) -> str:
    """A quantizer's module path as the name of the value that it quantizes; other names as they are."""
    if not name.startswith(fakequant.PREFIX):
        return name
    return name.removeprefix(fakequant.PREFIX).replace(fakequant.LOWERED, "", 1).replace("/", ".")


def _name_from_scopes(node: Any) -> str:
    """Module path and op, such as ``layer1.0.add``; layers with weights bear the bare module path."""
    noted = next((prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"), "['']")
    scopes = ast.literal_eval(noted)
    path = plain(scopes[-2]) if len(scopes) > 1 else ""
    op = SHORT.get(node.op_type, node.op_type.lower())
    if path and (node.op_type in ("Conv", "Gemm") or path.rpartition(".")[2] == op):
        return str(path)
    return f"{path}.{op}" if path else op
