"""Names after modules for the nodes and values that the exporter numbered; what it noted about our files is gone."""

import ast
from collections import Counter
from typing import Any

from rescompress import fakequant


def tidy(proto: Any) -> None:
    """Name nodes and values after modules, and drop what the exporter notes about our source files, in place.

    Args:
        proto: an ``onnx.ModelProto`` from ``torch.onnx.export``.
    """
    taken: Counter[str] = Counter()
    renamed = {tensor.name: plain(tensor.name).removesuffix(".integers") for tensor in proto.graph.initializer}
    for tensor in proto.graph.initializer:
        tensor.name = renamed[tensor.name]
    outputs = {value.name for value in proto.graph.output}
    for node in proto.graph.node:
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
    op = node.op_type.lower()
    if path and (node.op_type in ("Conv", "Gemm") or path.rpartition(".")[2] == op):
        return str(path)
    return f"{path}.{op}" if path else op
