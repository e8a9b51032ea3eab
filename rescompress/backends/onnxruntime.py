"""ONNX Runtime on CPUs: u8 activations, s8 weights per channel, every op between the convolutions in INT8 too."""

import ast
import contextlib
import re
import tempfile
import warnings
from collections import Counter
from importlib import metadata, util
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rescompress.artifact import Artifact
from rescompress.errors import BackendMissing, InputRefused
from rescompress.spec import LayerPrecision, ModelSpec, PrecisionReport, QuantScheme

if TYPE_CHECKING:
    from torch import nn

SCHEME = QuantScheme(
    runtime="onnxruntime",
    activation_dtype="uint8",
    symmetric_activations=False,
    per_channel_weights=True,
    quantized_ops=("conv", "linear", "add", "mul", "sigmoid", "avg_pool"),
    passing_ops=("max_pool", "reshape"),
    closed_ops=("conv", "add", "mul", "sigmoid", "avg_pool"),
)
PROVIDER = "CPUExecutionProvider"
ENTRY = "model.onnx"
REQUIREMENT = "rescompress[onnx]"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
KINDS = {
    "Conv": "conv",
    "Gemm": "linear",
    "MatMul": "linear",
    "Add": "add",
    "MaxPool": "pool",
    "AveragePool": "pool",
    "GlobalAveragePool": "pool",
}
"""Ops of the exported graph whose precision is reported."""
INT8_OPS = {
    "conv": ("QLinearConv", "ConvInteger"),
    "linear": ("QGemm", "QLinearMatMul", "MatMulIntegerToFloat"),
    "add": ("QLinearAdd",),
    "pool": ("QLinearAveragePool", "QLinearGlobalAveragePool", "NhwcMaxPool"),
}
"""Ops of the optimized graph that compute in INT8."""


def missing() -> str | None:
    """The pip requirement that is not installed here, or None."""
    absent = [package for package in PACKAGES if util.find_spec(package) is None]
    return REQUIREMENT if absent else None


def versions() -> dict[str, str]:
    """Releases of the packages that make and run the artifact."""
    return {package: metadata.version(package) for package in PACKAGES}


def export(
    model: "nn.Module",
    spec: ModelSpec,
    folder: Path,
    *,
    opset: Annotated[int, Field(ge=18, le=23)] = 21,
) -> str:
    """Write ``model.onnx``: one file, dynamic batch, INT8 weights stored as INT8, nodes named after the modules.

    Args:
        model: float or quantized.
        spec: the model's.
        folder: an empty folder.
        opset: version of the ONNX operator set.

    Raises:
        InputRefused: the exporter can't express the model.
    """
    import onnx
    import torch

    from rescompress import fakequant

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
    (folder / ENTRY).write_bytes(proto.SerializeToString(deterministic=True))
    return ENTRY


class OrtSession:
    """An ONNX Runtime session on the CPU provider, which is asserted."""

    def __init__(self, path: Path, threads: int, optimized: Path | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=[PROVIDER], enable_fallback=0
            )
        except Exception as error:  # the C++ layer raises its own unrelated classes
            raise InputRefused(f"ONNX Runtime can't load {path}: {error}.", "Export the model again.") from None
        if self._session.get_providers()[0] != PROVIDER:
            raise BackendMissing(f"ONNX Runtime fell back to {self._session.get_providers()[0]}.", "Reinstall it.")

    def __enter__(self) -> "OrtSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._session

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preprocessed images ``[n, 3, h, w]`` to logits ``[n, classes]``, or to all maps, one row an image."""
        outputs: list[NDArray[np.float32]] = self._session.run(None, {"images": images})
        return np.concatenate([output.reshape(len(output), -1) for output in outputs], 1)


def load(artifact: Artifact, *, threads: int) -> OrtSession:
    """Load an artifact with all graph optimizations on so many threads."""
    return OrtSession(artifact.entry, threads)


def audit(artifact: Artifact) -> PrecisionReport:
    """Precision of each convolution, linear layer, add and pool, read off the graph that ONNX Runtime optimized."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / ENTRY
        with OrtSession(artifact.entry, 1, optimized):
            built = onnx.load(str(optimized)).graph
    exported = onnx.load(str(artifact.entry)).graph
    constants = {tensor.name for tensor in exported.initializer}
    integers = _integer_values(built)
    found = {name: node for node in built.node for name in (_stem(node.name), *map(_stem, node.output))}
    layers = []
    for node in exported.node:
        op = KINDS.get(node.op_type)
        if op and not (op == "add" and constants & set(node.input)):
            now = found.get(node.name)
            moved = now is not None and now.op_type == "MaxPool" and now.input[0] in integers
            int8 = now is not None and (now.op_type in INT8_OPS[op] or moved)
            layers.append(LayerPrecision(node.name, op, "int8" if int8 else "fp32"))
    return PrecisionReport(tuple(layers), dict(sorted(Counter(node.op_type for node in built.node).items())))


def _output_names(program: "nn.Module", example: Any) -> list[str]:
    """``logits``, or ``map0``, ``map1`` and so on."""
    import torch

    from rescompress.graph import evaluating

    with evaluating(program), torch.no_grad():
        outputs = program(example)
    return ["logits"] if isinstance(outputs, torch.Tensor) else [f"map{place}" for place in range(len(outputs))]


def _integer_values(built: Any) -> set[str]:
    """Values of the optimized graph that are INT8."""
    integers: set[str] = set()
    for node in built.node:
        makes = node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear")
        if makes or (node.op_type in ("Transpose", "MaxPool", "Reshape") and node.input[0] in integers):
            integers.update(node.output)
    return integers


def _stem(name: str) -> str:
    """The name that we gave a node, in a name that ONNX Runtime derived from it or from its output."""
    return re.sub(r"(/.*|_token_\d+|_nchwc)+$", "", name)


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
    from rescompress.fakequant import LOWERED, PREFIX

    if not name.startswith(PREFIX):
        return name
    return name.removeprefix(PREFIX).replace(LOWERED, "", 1).replace("/", ".")


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
