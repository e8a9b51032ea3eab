"""What ONNX Runtime computes inside a network: its values as further outputs of a copy of the graph, in memory."""

import re
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rescompress.backends import OUTPUT, ROUNDED, Images

Array = NDArray[np.float32]
ROUNDS, UNROUNDS = "QuantizeLinear", "DequantizeLinear"


def written(path: Path, images: Images) -> dict[str, Array]:
    """Every value that the file names after a layer, computed op by op, nothing fused.

    Args:
        path: the ONNX file.
        images: as the network takes them.

    Returns:
        The values by the layer's name, and rounded ones, as what reads them sees them, under ``NAME.rounded``.
    """
    proto = _read(path)
    live = _live(proto.graph)
    names: dict[str, str] = {}
    for node in proto.graph.node:
        if node.output[0] not in live or node.op_type == ROUNDS:
            continue
        name = f"{_stem(node.name)}{ROUNDED}" if node.op_type == UNROUNDS else _name(node)
        names.setdefault(name, node.output[0])
    return _run(proto, names, images, optimized=False)


def built(path: Path, images: Images) -> dict[str, Array]:
    """The values that are left when ONNX Runtime has fused what it fuses: the rounded ones of a quantized network.

    A value that becomes an output can't be fused away, so those that lie between integers are left alone.

    Args:
        path: the ONNX file.
        images: as the network takes them.

    Returns:
        The values by the layer's name, rounded ones under ``NAME.rounded``.
    """
    proto = _read(path)
    live = _live(proto.graph)
    made = [node for node in proto.graph.node if node.output[0] in live]
    readers = {node.input[0]: node for node in made if node.op_type == UNROUNDS}
    rounds = [node for node in made if node.op_type == ROUNDS and node.output[0] in readers]
    ends = {value.name for value in proto.graph.output}
    if not rounds:
        names = {_name(node): node.output[0] for node in made}
        return _run(proto, names, images, optimized=True)
    names = {_name(node): node.output[0] for node in made if node.output[0] in ends}
    names |= {f"{_stem(node.name)}{ROUNDED}": node.output[0] for node in reversed(rounds)}
    steps = {node.output[0]: _step(proto.graph, readers[node.output[0]]) for node in rounds}
    return _run(proto, names, images, optimized=True, steps=steps)


def _run(
    proto: Any,
    names: dict[str, str],
    images: Images,
    *,
    optimized: bool,
    steps: dict[str, tuple[float, int]] | None = None,
) -> dict[str, Array]:
    """Values of the graph by name, in float32; integers are turned back by their step and zero-point."""
    import onnx
    import onnxruntime

    ends = [value.name for value in proto.graph.output]
    wanted = {name: value for name, value in names.items() if value}
    extra = dict.fromkeys(value for value in wanted.values() if value not in ends)
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(value) for value in extra)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session: Any = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    values = [*ends, *extra]
    (given,) = session.get_inputs()
    found = dict(zip(values, session.run(values, {given.name: images}), strict=True))
    rows = np.concatenate([found[name].reshape(len(images), -1) for name in ends], 1)
    for value, (scale, zero) in (steps or {}).items():
        if value in found:
            found[value] = (found[value].astype(np.float32) - np.float32(zero)) * np.float32(scale)
    shown = {name: found[value] for name, value in wanted.items()} | {OUTPUT: rows}
    return {name: np.asarray(array, np.float32) for name, array in shown.items() if array.dtype.kind == "f"}


def _read(path: Path) -> Any:
    import onnx

    return onnx.load(str(path))


def _live(graph: Any) -> set[str]:
    """Values that depend on the images."""
    live = {value.name for value in graph.input}
    for node in graph.node:
        if live & set(node.input):
            live.update(node.output)
    return live


def _step(graph: Any, node: Any) -> tuple[float, int]:
    """Scale and zero-point of a node that turns integers back."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.name in node.input[1:]}
    scale, *zero = [cast(NDArray[Any], numpy_helper.to_array(stored[name])) for name in node.input[1:] if name]
    return float(scale), int(zero[0]) if zero else 0


def _name(node: Any) -> str:
    """The stable name of the value that a node makes: the images' where they are normalized in the graph."""
    return "images" if node.output[0] == "images" else str(node.name)


def _stem(name: str) -> str:
    """The name of the value that a node rounds, or turns back from integers."""
    return re.sub(r"\.d?q(_\d+)?$", "", name)
