"""What TensorRT says while it works: kept, and read for the layers that it names."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rescompress.errors import BackendMissing

NO_KERNEL = ("No low-precision", "Could not find any implementation for node", "Failing node")
"""How TensorRT says that a strongly typed layer has no kernel (NVIDIA/TensorRT#4838, 11.2.1)."""
WEIGHTY = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def make() -> Any:
    """A ``tensorrt.ILogger`` whose ``errors`` and ``warnings`` are lists of messages."""
    import tensorrt as trt

    class Log(trt.ILogger):  # type: ignore[misc, unused-ignore]
        """Keeps messages."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            """Called by TensorRT, from any thread."""
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(msg)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(msg)

    return Log()


def opened(kind: Any, logger: Any) -> Any:
    """A ``tensorrt.Builder`` or ``tensorrt.Runtime``.

    Raises:
        BackendMissing: the libraries can't start on this GPU.
    """
    try:
        return kind(logger)
    except TypeError:  # pybind11 says so when the native factory returns null
        said = last(logger, "no reason given")
        raise BackendMissing(f"TensorRT can't start here: {said}.", "Install releases that fit the driver.") from None


def last(logger: Any, silent: str) -> str:
    """The last error, briefly; or what is said where there was none."""
    return brief(logger.errors[-1]) if logger.errors else silent


def refusals(parser: Any) -> list[str]:
    """A sentence for each node that the ONNX parser refuses.

    Args:
        parser: a ``tensorrt.OnnxParser`` that has just failed.
    """
    sentences = []
    for error in (parser.get_error(place) for place in range(parser.num_errors)):
        name, op = error.node_name(), error.node_operator()
        where = f"node {name or error.node()} ({op})" if name or op else "the file"
        sentences.append(f"TensorRT refuses {where}: {brief(error.desc())} [{error.code().name}].")
    return sentences


def blamed(errors: Iterable[str], nodes: Sequence[Any]) -> list[str]:
    """Names of the ONNX nodes that have no kernel; of several in one kernel, those with weights.

    Args:
        errors: what the logger got.
        nodes: of the ONNX graph, each with a name and an op type.
    """
    told = [text for text in errors if any(words in text for words in NO_KERNEL)]
    named = [node for node in nodes if node.name and any(_mentions(text, node.name) for text in told)]
    weighty = [node for node in named if node.op_type in WEIGHTY]
    return [node.name for node in weighty or named if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]


def twins(names: Sequence[str], graph: Any) -> list[str]:
    """Names of other nodes that want the same kernel as a named one: same op, same attributes, same shape of weights.

    Args:
        names: of nodes of the graph.
        graph: an ``onnx.GraphProto``.
    """
    shapes = _shapes(graph)
    kinds = {node.name: _kind(node, shapes) for node in graph.node if node.op_type in WEIGHTY}
    wanted = {kinds[name] for name in names if name in kinds}
    return [name for name, kind in kinds.items() if kind in wanted and name not in names]


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """Shape of each stored tensor, and of what a DQ makes of one."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    pairs = (node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in shapes)
    return shapes | {node.output[0]: shapes[node.input[0]] for node in pairs}


def _kind(node: Any, shapes: dict[str, tuple[int, ...]]) -> tuple[Any, ...]:
    """What decides which kernels a layer may have, but for the size of its images."""
    attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
    return (node.op_type, shapes.get(node.input[1]), *attributes)


def brief(text: str) -> str:
    """The first line of a message, without the full stop."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given").rstrip(".")


def _mentions(text: str, name: str) -> bool:
    """Whether a name stands in a text by itself, not as part of a longer path."""
    return re.search(rf"(?<![\w/])(?<!\w\.){re.escape(name)}(?![\w/])(?!\.\w)", text) is not None
