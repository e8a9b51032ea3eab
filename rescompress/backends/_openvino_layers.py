"""What OpenVINO computes inside a network: its values as further results of a copy of the model, in memory."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rescompress.backends import OUTPUT, ROUNDED, Images
from rescompress.backends._openvino_graph import is_constant

ENDS = ("Parameter", "Result")


def built(path: Path, images: Images, options: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Values of the model that OpenVINO compiles; of a quantized network those that are rounded.

    A value that becomes a result can't be fused away, so those that lie between integers are left alone.

    Args:
        path: the IR.
        images: as the network takes them.
        options: of the compilation.

    Returns:
        The values by the layer's name, rounded ones under ``NAME.rounded``.
    """
    import openvino
    from openvino import opset13

    model = openvino.Core().read_model(path)
    ops = [op for op in model.get_ordered_ops() if op.get_type_name() not in ENDS and not is_constant(op)]
    rounds = [op for op in ops if op.get_type_name() == "FakeQuantize"]
    ends = {op.input_value(0).get_node().get_friendly_name() for op in model.get_results()}  # results already
    shown = [op for op in rounds or ops if op.get_friendly_name() not in ends]
    first = {_name(op): op for op in reversed(shown)}
    names = list(reversed(first))
    model.add_results([opset13.result(first[name].output(0)) for name in names])
    compiled = openvino.Core().compile_model(model, "CPU", options)
    answer = compiled.create_infer_request().infer([images])
    arrays = [np.asarray(answer[port], np.float32) for port in compiled.outputs]
    count = len(arrays) - len(names)
    rows = np.concatenate([array.reshape(len(array), -1) for array in arrays[:count]], 1)
    return dict(zip(names, arrays[count:], strict=True)) | {OUTPUT: rows}


def _name(op: Any) -> str:
    stem = re.sub(r"\.d?q(_\d+)?$", "", op.get_friendly_name())
    return f"{stem}{ROUNDED}" if op.get_type_name() == "FakeQuantize" else stem
