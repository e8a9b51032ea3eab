"""How stored integers look in the file: INT4 two to a byte, zero-points of the type that they are subtracted from."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

OPSETS = {"int4": 21, "uint8": 10}
"""Types of weights that the exporter doesn't write right, and the first operator set that can dequantize them."""


def store(graph: Any, kinds: Mapping[str, str]) -> None:
    """Give stored weights and their zero-points their true type, in place.

    Args:
        graph: an ``onnx.GraphProto`` whose nodes and values have their last names.
        kinds: type of each weight that needs it, by name.
    """
    from onnx import TensorProto, helper, numpy_helper

    types = {"int4": TensorProto.INT4, "uint8": TensorProto.UINT8}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in kinds:
            continue
        kind = kinds[node.input[0]]
        if kind == "int4":  # symmetric, so the zero-point may be left out
            del node.input[2:]
        else:
            zeros = numpy_helper.to_array(tensors[node.input[2]])
            graph.initializer.append(numpy_helper.from_array(zeros.astype(kind), f"{node.input[0]}.zero_point"))
            node.input[2] = f"{node.input[0]}.zero_point"
        values = numpy_helper.to_array(tensors[node.input[0]])
        narrow = helper.make_tensor(node.input[0], types[kind], values.shape, values.flatten().tolist())
        tensors[node.input[0]].CopyFrom(narrow)


def float_biases(graph: Any, but: Collection[str] = ()) -> None:
    """Store biases as floats instead of INT32 with a scale of their own, in place; their values stay.

    Equal integers, such as zeros, may be stored once for several biases, whose scales differ.

    Args:
        graph: an ``onnx.GraphProto`` whose nodes and values have their last names.
        but: names of DQ nodes that stay.
    """
    from onnx import TensorProto, numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    read_as: dict[str, str] = {}
    floats = []
    for node in graph.node:
        stored = tensors.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if stored is not None and stored.data_type == TensorProto.INT32 and node.name not in but:
            scale = numpy_helper.to_array(tensors[node.input[1]]).astype("float64")
            values = (numpy_helper.to_array(stored) * scale).astype("float32")
            name = stored.name if readers[stored.name] == 1 else f"{stored.name}.{node.name}"
            floats.append(numpy_helper.from_array(values, name))
            read_as[node.output[0]] = name
        node.input[:] = [read_as.get(name, name) for name in node.input]
    for tensor in floats:
        tensors[tensor.name].CopyFrom(tensor) if tensor.name in tensors else graph.initializer.append(tensor)
    drop_unused(graph)


def drop_unused(graph: Any) -> None:
    """Remove nodes and stored tensors that nothing reads any more, in place."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(node.input)
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(tensors)
