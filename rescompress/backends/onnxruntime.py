"""ONNX Runtime on CPUs: u8 activations, s8 weights per channel, every op between the convolutions in INT8 too."""

import re
import tempfile
from collections import Counter
from importlib import metadata, util
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rescompress.artifact import Artifact
from rescompress.backends import Images, _onnxruntime_layers
from rescompress.errors import BackendMissing, InputRefused
from rescompress.schemes import ONNXRUNTIME
from rescompress.spec import LayerPrecision, ModelSpec, PrecisionReport, Proportion, Rung

if TYPE_CHECKING:
    from torch import nn

SCHEME = ONNXRUNTIME
PROVIDER = "CPUExecutionProvider"
ENTRY = "model.onnx"
REQUIREMENT = "rescompress[onnx]"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
KINDS = {
    "Conv": "conv",
    "ConvInteger": "conv",
    "Gemm": "linear",
    "MatMulInteger": "linear",
    "MatMul": "linear",
    "Add": "add",
    "MaxPool": "pool",
    "AveragePool": "pool",
    "GlobalAveragePool": "pool",
}
"""Ops of the exported graph whose precision is reported."""
INT8_OPS = {
    "conv": ("QLinearConv", "ConvInteger"),
    "linear": ("QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
    "add": ("QLinearAdd",),
    "pool": ("QLinearAveragePool", "QLinearGlobalAveragePool", "NhwcMaxPool"),
}
"""Ops of the optimized graph that compute in INT8."""
MOVES = ("Transpose", "Reshape", "Flatten", "ReorderInput", "ReorderOutput")
"""Ops of the optimized graph that only move values."""


def missing() -> str | None:
    """The pip requirement that is not installed here, or None."""
    absent = [package for package in PACKAGES if util.find_spec(package) is None]
    return REQUIREMENT if absent else None


def rung() -> tuple[Rung, str]:
    """The highest rung that an artifact can climb on this machine, and what hinders more."""
    return "L3", ""


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
    from rescompress import onnx_writing

    proto = onnx_writing.proto_of(model, spec, opset)
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
    found = {_stem(value): node for node in built.node for value in node.output}
    found |= {_stem(node.name): node for node in built.node if _stem(node.name) not in found or _is_int8(node)}
    layers = []
    for node in exported.node:
        op = KINDS.get(node.op_type)
        if op and not (op == "add" and constants & set(node.input)):
            now = found.get(node.name)
            moved = now is not None and now.op_type == "MaxPool" and now.input[0] in integers
            int8 = now is not None and (now.op_type in INT8_OPS[op] or moved)
            layers.append(LayerPrecision(node.name, op, "int8" if int8 else "fp32"))
    counts = Counter(node.op_type for node in built.node)
    int8 = sum(_is_int8(node) or (node.op_type == "MaxPool" and node.input[0] in integers) for node in built.node)
    return PrecisionReport(
        tuple(layers), dict(sorted(counts.items())), Proportion(int8, len(built.node) - sum(counts[op] for op in MOVES))
    )


def _integer_values(built: Any) -> set[str]:
    """Values of the optimized graph that are INT8."""
    integers: set[str] = set()
    for node in built.node:
        makes = node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear")
        if makes or (node.op_type in ("Transpose", "MaxPool", "Reshape") and node.input[0] in integers):
            integers.update(node.output)
    return integers


def _is_int8(node: Any) -> bool:
    """Whether a node of the optimized graph computes with integers."""
    return node.op_type.startswith("QLinear") or any(node.op_type in ops for ops in INT8_OPS.values())


def _stem(name: str) -> str:
    """The name that we gave a node, in a name that ONNX Runtime derived from it or from its output."""
    return re.sub(r"(/.*|_token_\d+|_nchwc)+$", "", name)


def layers(artifact: Artifact, images: Images) -> dict[str, NDArray[np.float32]]:
    """What ONNX Runtime computes inside, as it fuses the graph."""
    return _onnxruntime_layers.built(artifact.entry, images)


def written_layers(artifact: Artifact, images: Images) -> dict[str, NDArray[np.float32]]:
    """What the file says, computed op by op."""
    return _onnxruntime_layers.written(artifact.entry, images)
