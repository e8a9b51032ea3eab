"""What coremltools converts: a model, float or quantized, as an exported program with steps named after modules."""

import re
import warnings
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export

from rescompress import fakequant, graph
from rescompress.spec import ModelSpec

BATCHES = 64
"""Images that an artifact with a flexible batch takes at most: Core ML wants a bound."""
_aten, _q = torch.ops.aten, torch.ops.quantized_decomposed
_STORED = _q.dequantize_per_channel.default
_PAIRS = (_q.quantize_per_tensor.default, _q.dequantize_per_tensor.default, _STORED)


def program_of(
    model: nn.Module, spec: ModelSpec, batch: int | None, *, preprocess: bool, softmax: bool
) -> tuple[ExportedProgram, dict[str, str]]:
    """The program, and by name in the program the name of each value of the captured graph.

    Args:
        model: float or quantized.
        spec: the model's.
        batch: images at a time; None leaves it free between 1 and ``BATCHES``.
        preprocess: the program takes RGB images in [0, 1] and begins with ``(x - mean) / std``.
        softmax: the program ends with a softmax over the classes.
    """
    traced = _lowered(model, spec)
    _use_whole_norms(traced)
    if preprocess:
        _normalize(traced, spec)
    if softmax:
        _append_softmax(traced)
    traced.recompile()
    # A batch of one would be specialized into the graph.
    example = torch.zeros(batch or 2, *spec.input_shape)
    shapes = None if batch else ({0: Dim("n", min=1, max=BATCHES)},)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = export(traced, (example,), dynamic_shapes=shapes, strict=False)
    names = _rename(program, traced)
    return _as_aten(program), names


def _lowered(model: nn.Module, spec: ModelSpec) -> fx.GraphModule:
    """A copy that may be edited: captured, with Q/DQ pairs where it was quantized.

    MIL has no INT32 constants to dequantize, so biases are written as the floats that they stand for.
    """
    if not fakequant.sites_of(model):
        return graph.clone(graph.capture(model, spec.input_shape))
    lowered = fakequant.lower(cast(fx.GraphModule, model))
    for node in list(lowered.graph.nodes):
        if node.op != "call_module":
            continue
        module = lowered.get_submodule(node.target)
        if isinstance(module, fakequant.Dequantize) and module.dtype == "int32":
            path = str(node.target).removeprefix(fakequant.PREFIX).removesuffix(fakequant.LOWERED)
            with lowered.graph.inserting_before(node):
                node.replace_all_uses_with(_constant(lowered, plain(path), module().detach()))
            lowered.graph.erase_node(node)
    lowered.delete_all_unused_submodules()
    return lowered


def _use_whole_norms(traced: fx.GraphModule) -> None:
    """Say BatchNorm with one output, in place: of PyTorch's three, coremltools binds the first only."""
    for node in list(traced.graph.nodes):
        if node.op != "call_function" or node.target is not _aten._native_batch_norm_legit_no_training.default:
            continue
        *tensors, momentum, eps = node.args
        with traced.graph.inserting_before(node):
            whole = traced.graph.call_function(_aten.batch_norm.default, (*tensors, False, momentum, eps, False))
        whole.meta["value_name"] = graph.name_of(node)
        for output in list(node.users):
            output.replace_all_uses_with(whole)
            traced.graph.erase_node(output)
        traced.graph.erase_node(node)


def plain(name: str) -> str:
    """A name as MIL allows it: letters, digits and underscores."""
    name = re.sub(r"\W", "_", name)
    return f"_{name}" if name[:1].isdigit() else name


def _constant(traced: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    traced.register_buffer(name, value)
    return traced.graph.get_attr(name)


def _normalize(traced: fx.GraphModule, spec: ModelSpec) -> None:
    images = next(node for node in traced.graph.nodes if node.op == "placeholder")
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (spec.preprocessing.mean, spec.preprocessing.std))
    with traced.graph.inserting_before(images.next):
        constants = _constant(traced, "pixel_mean", mean), _constant(traced, "pixel_std", std)
        centred = traced.graph.call_function(_aten.sub.Tensor, (images, constants[0]))
        normalized = traced.graph.call_function(_aten.div.Tensor, (centred, constants[1]))
    images.replace_all_uses_with(normalized, delete_user_cb=lambda user: user is not centred)


def _append_softmax(traced: fx.GraphModule) -> None:
    output = next(node for node in traced.graph.nodes if node.op == "output")
    logits = output.all_input_nodes[0]
    with traced.graph.inserting_before(output):
        probabilities = traced.graph.call_function(_aten.softmax.int, (logits, 1))
    output.replace_input_with(logits, probabilities)


def _rename(program: ExportedProgram, traced: fx.GraphModule) -> dict[str, str]:
    """Name a program's steps after those of the graph that it was exported from, in place.

    Both have the same steps in the same order; only the Q/DQ pairs, which stand in modules of their own, come between.
    """
    steps = [node for node in program.graph.nodes if node.op == "call_function"]
    theirs = [node for node in steps if node.target not in _PAIRS]
    ours = [node for node in traced.graph.nodes if node.op == "call_function"]
    if [node.target for node in ours] != [node.target for node in theirs]:
        return {}
    wanted = {node: graph.name_of(own) for own, node in zip(ours, theirs, strict=True) if "value_name" in own.meta}
    stored = {node: _weight_of(node) for node in steps if node.target is _STORED}
    taken = {node.name for node in program.graph.nodes if node not in wanted and node not in stored}
    outputs = {node.name: node for node in program.graph.output_node().all_input_nodes}
    for node, name in {**wanted, **stored}.items():
        new, count = plain(name), 0
        while new in taken:
            count += 1
            new = f"{plain(name)}_{count}"
        node.name = new
        taken.add(new)
    for old, node in outputs.items():
        program.graph_signature.replace_all_uses(old, node.name)
    return {node.name: name for node, name in wanted.items()}


def _weight_of(node: fx.Node) -> str:
    """The name of the weight that a step dequantizes, which is in the path of its module."""
    path = next(path for path, _ in reversed(list(node.meta["nn_module_stack"].values())))
    return str(path).removeprefix(fakequant.PREFIX).removesuffix(fakequant.LOWERED)


def _as_aten(program: ExportedProgram) -> ExportedProgram:
    """The same program, labelled as what it is.

    A captured graph has no op left that writes in place, so ``run_decompositions({})``, which coremltools asks for,
    would only trace it again: more than half of the export's time.
    """
    return ExportedProgram(
        program.graph_module,
        program.graph,
        program.graph_signature,
        program.state_dict,
        program.range_constraints,
        program.module_call_graph,
        program.example_inputs,
        program.constants,
    )


def outputs_of(program: ExportedProgram, softmax: bool) -> dict[str, str]:
    """Names of the package's outputs by those that they have in the program: logits, probabilities, or maps."""
    found = program.graph.output_node().all_input_nodes
    if len(found) == 1:
        return {found[0].name: "probabilities" if softmax else "logits"}
    return {node.name: f"map{place}" for place, node in enumerate(found)}
