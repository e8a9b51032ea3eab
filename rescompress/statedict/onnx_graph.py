"""An ONNX graph as plain tensors: its constants by number, and under ``graph`` the steps as JSON in bytes.

Constants that lie in another file are refused, and the shapes are those that ONNX infers.
"""

import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rescompress.errors import InputRefused
from rescompress.statedict.opcodes import shown
from rescompress.statedict.sandbox import Limits

GRAPH = "graph"
SCOPES = "pkg.torch.onnx.name_scopes"
LISTS = ("strides", "group", "transA", "transB", "axis")
"""The attributes that say what a step costs, each as a list of integers."""
DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
MOST_STEPS = 20_000
INLINE = "Export it as one file, with its weights inside (external_data=False)."
AGAIN = "Export it again, and check it with onnx.checker.check_model."


def read_onnx(path: Path, granted: Limits) -> dict[str, Tensor]:
    """Constants and steps of a graph that ONNX's own checker lets through.

    Raises:
        InputRefused: it is no ONNX graph, a broken one, or one whose weights lie in another file.
    """
    onnx = importlib.import_module("onnx")  # it is not in the default install
    try:
        model = onnx.load(str(path), load_external_data=False)
        if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in _tensors(model)):
            raise InputRefused("keeps weights in another file.", INLINE)
        if len(model.graph.node) > MOST_STEPS:
            raise InputRefused(f"has {len(model.graph.node)} steps, which no ResNet has.", AGAIN)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        onnx.checker.check_model(model)
        return _plain(onnx, onnx.shape_inference.infer_shapes(model, data_prop=True).graph, model)
    except (InputRefused, MemoryError):
        raise
    except Exception as error:  # protobuf, the checker and the shape inference each have errors of their own
        first = shown(str(error).strip().partition("\n")[0]).rstrip(". ")
        raise InputRefused(f"can't be read as an ONNX graph: {first or 'it is corrupt'}.", AGAIN) from None


def _tensors(model: Any) -> Iterator[Any]:
    """Every constant of a model, those of its functions and of graphs inside of steps included."""
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            yield from (part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices))
            nodes += graph.node
        else:
            for attribute in nodes.pop().attribute:
                yield from (attribute.t, *attribute.tensors)
                graphs += [*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs]


def _plain(onnx: Any, graph: Any, model: Any) -> dict[str, Tensor]:
    numbers: dict[str, int] = {"": -1}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    infos = {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}
    images = [value for value in graph.input if value.name not in constants]
    if len(images) != 1:
        raise InputRefused(f"takes {len(images)} inputs, not one image.", "Give a graph that reads images alone.")

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers) - 1)

    described = {
        "name": shown(next((p.value for p in model.metadata_props if p.key == "rescompress.model"), "") or graph.name),
        "image": number(images[0].name),
        "shape": _shape(infos.get(images[0].name)),
        "outputs": [number(value.name) for value in graph.output],
        "nodes": [
            {
                "name": shown(_name(node)),
                "op": shown(node.op_type),
                "inputs": [number(name) for name in node.input],
                "outputs": [number(name) for name in node.output],
                "shape": _shape(infos.get(node.output[0])) if node.output else None,
                "numbers": {a.name: list(a.ints) or [a.i] for a in node.attribute if a.name in LISTS},
                "epsilon": next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5),
            }
            for node in graph.node
            if node.op_type != "Constant"
        ],
    }
    tensors = {str(number(name)): _constant(onnx, tensor) for name, tensor in constants.items() if name in numbers}
    written = np.frombuffer(json.dumps(described).encode(), np.uint8).copy()
    return {name: tensor for name, tensor in tensors.items() if tensor is not None} | {GRAPH: torch.from_numpy(written)}


def _constant(onnx: Any, tensor: Any) -> Tensor | None:
    """A constant; None in a type that PyTorch lacks."""
    array = onnx.numpy_helper.to_array(tensor)
    return torch.from_numpy(np.array(array, order="C")) if array.dtype.name in DTYPES else None


def _shape(info: Any) -> list[int | None] | None:
    """Sizes of a value for one image; None stands for a size, or a shape, that nothing fixes."""
    if info is None or not info.type.tensor_type.HasField("shape"):
        return None
    sizes = info.type.tensor_type.shape.dim
    return [size.dim_value if size.HasField("dim_value") else None for size in sizes][1:]


def _name(node: Any) -> str:
    """Module path and op where PyTorch noted the module, else the step's own name, or its output's."""
    noted = next((p.value for p in node.metadata_props if p.key == SCOPES), "[]")
    scopes = ast.literal_eval(noted)
    path = str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""
    if node.name.startswith("/"):  # the older exporter: /layer1/layer1.0/conv1/Conv
        for part in node.name.split("/")[1:-1]:
            path = part if part.startswith(f"{path}.") else f"{path}.{part}".lstrip(".")
    if path and node.op_type in ("Conv", "Gemm", "BatchNormalization"):
        return path
    return f"{path}.{node.op_type.lower()}" if path else str(node.name or next(iter(node.output), node.op_type))
