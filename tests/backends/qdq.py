"""Small ONNX graphs with Q and DQ where a test wants them: a residual block of 32 channels, and whatever breaks it."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
helper, numpy_helper = onnx.helper, onnx.numpy_helper


class Sketch:
    """A graph that is drawn value by value; every method gives back the name of the value that it makes.

    Args:
        floats: type of scales, of float weights and of what is computed between.
        channels: of the input ``images``, ``[n, channels, 8, 8]``.
    """

    def __init__(self, floats: Any = np.float16, channels: int = 32) -> None:
        self.floats, self.channels = floats, channels
        self.nodes: list[Any] = []
        self.stored: list[Any] = []

    def store(self, name: str, values: NDArray[Any] | int | float, kind: Any = None) -> str:
        """A stored tensor."""
        self.stored.append(numpy_helper.from_array(np.asarray(values, kind or self.floats), name))
        return name

    def op(self, kind: str, *values: str, name: str, **attributes: Any) -> str:
        """A node with one output."""
        self.nodes.append(helper.make_node(kind, values, [f"{name}/out"], name=name, **attributes))
        return f"{name}/out"

    def pair(self, value: str, name: str, *, zero: int = 0, kind: Any = np.int8, scales: Any = 0.5) -> str:
        """Q and DQ behind an activation."""
        scale = self.store(f"{name}.scale", scales)
        point = self.store(f"{name}.zero", np.full(np.shape(scales), zero), kind)
        integers = self.op("QuantizeLinear", value, scale, point, name=f"{name}.q")
        return self.op("DequantizeLinear", integers, scale, point, name=f"{name}.dq")

    def weight(self, name: str, shape: tuple[int, ...], *, axis: int = 0, per_channel: bool = True) -> str:
        """A stored INT8 weight behind a DQ."""
        values = self.store(name, np.ones(shape), np.int8)
        size = (shape[axis],) if per_channel else ()
        scale, point = (
            self.store(f"{name}.scale", np.full(size, 0.5)),
            self.store(f"{name}.zero", np.zeros(size), np.int8),
        )
        return self.op("DequantizeLinear", values, scale, point, name=f"{name}.dq", axis=axis)

    def conv(self, value: str, name: str, *, cin: int = 32, cout: int = 32, weight: str = "", **attributes: Any) -> str:
        """A convolution of 1 x 1, quantized unless it is given another weight."""
        size = cin // attributes.get("group", 1)
        return self.op(
            "Conv", value, weight or self.weight(f"{name}.weight", (cout, size, 1, 1)), name=name, **attributes
        )

    def block(self, *, residual: bool = True, trunk: bool = False, closed: bool = True) -> str:
        """conv1, ReLU, conv2, add, ReLU, conv3, with pairs as NVIDIA has them; or not.

        Args:
            residual: Q and DQ before the add, on the shortcut.
            trunk: and on the other side, where they break the fusion.
            closed: behind the add's ReLU.
        """
        entry = self.pair("images", "entry")
        shortcut = entry if residual else "images"
        first = self.pair(self.op("Relu", self.conv(entry, "conv1"), name="relu1"), "first")
        second = self.conv(first, "conv2")
        second = self.pair(second, "second") if trunk else second
        last = self.op("Relu", self.op("Add", second, shortcut, name="add"), name="relu2")
        return (
            self.conv(self.pair(last, "last"), "conv3") if closed else self.op("GlobalAveragePool", last, name="pool")
        )

    def proto(self, output: str, opset: int = 21) -> Any:
        """The model."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.floats))
        images = helper.make_tensor_value_info("images", kind, ["n", self.channels, 8, 8])
        answer = helper.make_tensor_value_info(output, kind, ["n", None, None, None])
        graph = helper.make_graph(self.nodes, "sketch", [images], [answer], self.stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def narrow(proto: Any, name: str, kind: int = onnx.TensorProto.INT4) -> None:
    """Store a weight and its zero-points in another type, in place."""
    for tensor in proto.graph.initializer:
        if tensor.name in (name, f"{name}.zero"):
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(helper.make_tensor(tensor.name, kind, values.shape, values.flatten().tolist()))
