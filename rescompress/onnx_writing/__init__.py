"""A model, float or quantized, as one tidy ONNX file: what every backend that reads ONNX starts from."""

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import fx, nn

from rescompress import fakequant
from rescompress.errors import RecipeError
from rescompress.graph import evaluating
from rescompress.onnx_writing import integers, names, run_time
from rescompress.spec import ModelSpec


def proto_of(model: nn.Module, spec: ModelSpec, opset: int) -> Any:
    """The ``onnx.ModelProto``: dynamic batch, INT8 weights stored as INT8, nodes named after the modules.

    Args:
        model: float or quantized.
        spec: the model's.
        opset: version of the ONNX operator set.

    Raises:
        RecipeError: the operator set has no INT4.
    """
    import onnx

    program, stored = _lowered(model, opset) if fakequant.sites_of(model) else (model, {})
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
    for node in proto.graph.node:
        _use_global_pool(node, proto.graph)
    names.tidy(proto, spec)
    run_time.use_integers(proto.graph)
    integers.store(proto.graph, stored)
    integers.drop_unused(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _lowered(model: nn.Module, opset: int) -> tuple[nn.Module, Mapping[str, str]]:
    """The program to export, and by name the integer types that PyTorch has no tensors for."""
    lowered = fakequant.lower(cast(fx.GraphModule, model))
    kinds: dict[str, str] = {
        names.plain(path): module.dtype
        for path, module in lowered.named_modules()
        if isinstance(module, fakequant.Dequantize) and module.dtype in integers.OPSETS
    }
    if opset < max((integers.OPSETS[kind] for kind in kinds.values()), default=0):
        raise RecipeError(f"ONNX has no INT4 in operator set {opset}.", "Take opset 21 or later.")
    run_time.mark(lowered)
    return lowered, kinds


def _output_names(program: nn.Module, example: torch.Tensor) -> list[str]:
    """``logits``, or ``map0``, ``map1`` and so on."""
    with evaluating(program), torch.no_grad():
        outputs = program(example)
    return ["logits"] if isinstance(outputs, torch.Tensor) else [f"map{place}" for place in range(len(outputs))]


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
