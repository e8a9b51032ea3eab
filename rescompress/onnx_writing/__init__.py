"""A model, float or quantized, as one tidy ONNX file: what every backend that reads ONNX starts from."""

import contextlib
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import fx, nn

from rescompress import fakequant, progress
from rescompress.errors import RecipeError
from rescompress.graph import evaluating
from rescompress.onnx_writing import ends, half, integers, names, run_time
from rescompress.spec import ModelSpec


def proto_of(
    model: nn.Module,
    spec: ModelSpec,
    opset: int,
    *,
    floats: Literal["fp32", "fp16"] = "fp32",
    fp32_scales: bool = False,
    float_biases: bool = False,
    keep_fp32: Collection[str] = (),
    preprocess: bool = False,
    softmax: bool = False,
    batch: int | None = None,
    labels: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """The ``onnx.ModelProto``: INT8 weights stored as INT8, nodes named after the modules.

    What goes in is called ``images`` or ``pixels``, what comes out ``logits``, ``probabilities`` or ``map0`` and so on;
    except for pixels, all of them are FP32.

    Args:
        model: float or quantized.
        spec: the model's.
        opset: version of the ONNX operator set.
        floats: what is computed in where integers aren't; scales and biases are FP16 too.
        fp32_scales: with FP16, integer layers keep FP32 between their scales; CPUs' runtimes fuse only those.
        float_biases: biases are floats; else those of integer layers are INT32, in FP16 only with ``fp32_scales``.
        keep_fp32: with FP16, names of nodes that stay in FP32.
        preprocess: take pixels, uint8 ``[n, h, w, 3]`` RGB, and scale and normalize them in the graph, in FP32.
        softmax: give probabilities, in FP32.
        batch: images in each batch; None for any number.
        labels: names of the classes, for the metadata.
        metadata: further entries, under ``rescompress.`` and their names.

    Raises:
        RecipeError: the operator set has no INT4, or no FP16 scales; or what is asked for doesn't fit the model.
        InputRefused: a weight is larger than FP16 can hold.
    """
    import onnx

    proto = _exported(model, spec, opset)
    if float_biases:
        integers.float_biases(proto.graph)
    if floats == "fp16":
        beside = half.beside_integers(proto.graph) if fp32_scales else frozenset()
        for sentence in half.convert(proto, keep_fp32={*keep_fp32, *beside}):
            progress.note(sentence)
    if preprocess:
        ends.take_pixels(proto, spec.preprocessing)
    if softmax:
        ends.give_probabilities(proto)
    if batch is not None:
        ends.fix_batch(proto, batch)
    ends.describe(proto, spec, labels, metadata or {})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _exported(model: nn.Module, spec: ModelSpec, opset: int) -> Any:
    """The graph in FP32 and integers, of any batch."""
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
    _use_global_pools(proto.graph)
    names.tidy(proto)
    run_time.use_integers(proto.graph)
    integers.store(proto.graph, stored)
    names.shorten(proto.graph)
    integers.drop_unused(proto.graph)
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


def _use_global_pools(graph: Any) -> None:
    """Say GlobalAveragePool where the exporter says ReduceMean: ONNX Runtime has only the former in INT8."""
    import onnx

    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in stored:
            continue
        axes = onnx.numpy_helper.to_array(stored[node.input[1]])
        keeps = all(attribute.i == 1 for attribute in node.attribute if attribute.name == "keepdims")
        if keeps and sorted(int(axis) % 4 for axis in axes) == [2, 3]:
            node.op_type = "GlobalAveragePool"
            del node.input[1], node.attribute[:]
