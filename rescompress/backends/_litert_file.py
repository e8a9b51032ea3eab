"""A TFLite flatbuffer, written tensor by tensor and operator by operator with the schema that LiteRT ships."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
ALIGNMENT = 16
"""Where a constant's bytes begin (``force_align`` in the schema, which Python's generated code leaves out)."""
OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "ADD": "AddOptions",
    "MUL": "MulOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "SOFTMAX": "SoftmaxOptions",
    "CONCATENATION": "ConcatenationOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
}
"""The table of options that an operator has; the others need none."""


@dataclass(frozen=True)
class Grid:
    """What integers stand for: ``s (q - z)``.

    Attributes:
        scales: s, one for a tensor or one for each index of ``axis``.
        zero: z.
        axis: along which the scales lie.
    """

    scales: tuple[float, ...]
    zero: int = 0
    axis: int = 0

    def same(self, other: "Grid") -> bool:
        """Whether the integers stand for the same numbers."""
        return self.scales == other.scales and self.zero == other.zero


@dataclass(frozen=True)
class Value:
    """A tensor of the file; ``shape`` is the one that it is stored in, batch first, channels last."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: Grid | None = None


class TfliteFile:
    """The tables of one model with one subgraph, which grow until ``content`` writes them.

    Args:
        batch: images in one run; None where the one who runs decides.
    """

    def __init__(self, batch: int | None) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.batch = batch
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]
        self.operators: list[Any] = []
        self.codes: dict[str, int] = {}
        self.versions: dict[str, int] = {}
        self.metadata: list[Any] = []
        self._zeros: dict[tuple[int, int], int] = {}

    def value(self, name: str, shape: Sequence[int], dtype: str = "float32", grid: Grid | None = None) -> Value:
        """A tensor that is computed, of this shape behind its batch axis."""
        stored = (self.batch or 1, *shape)
        tensor = self._tensor(name, stored, dtype, grid)
        tensor.shapeSignature = None if self.batch else [-1, *shape]
        return Value(len(self.tensors) - 1, name, stored, dtype, grid)

    def constant(self, name: str, array: NDArray[Any], grid: Grid | None = None, *, dtype: str = "") -> Value:
        """A tensor that the file holds; ``int4`` packs two integers into a byte, the first into the lower half."""
        dtype = dtype or array.dtype.name
        tensor = self._tensor(name, array.shape, dtype, grid)
        tensor.buffer = self._buffer(_packed(array) if dtype == "int4" else array)
        return Value(len(self.tensors) - 1, name, array.shape, dtype, grid)

    def op(self, code: str, inputs: Sequence[Value | None], output: Value, version: int = 1, **options: Any) -> Value:
        """Append an operator; its options bear the schema's names."""
        self.codes.setdefault(code, len(self.codes))
        self.versions[code] = max(version, self.versions.get(code, 1))
        operator = self.schema.OperatorT(self.codes[code])
        operator.inputs = [-1 if value is None else value.index for value in inputs]
        operator.outputs = [output.index]
        if code in OPTIONS:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, OPTIONS[code])
            operator.builtinOptions = getattr(self.schema, OPTIONS[code] + "T")(**options)
        self.operators.append(operator)
        return output

    def attach(self, name: str, content: bytes) -> None:
        """Put bytes under a name into the model's metadata."""
        buffer = self._buffer(np.frombuffer(content, np.uint8))
        self.metadata.append(self.schema.MetadataT(name, buffer))

    def content(self, source: Value, outputs: Sequence[Value], description: str) -> bytes:
        """The file: one signature, which takes ``source`` and gives ``outputs``, under their names."""
        import flatbuffers

        made = self.schema
        graph = made.SubGraphT(self.tensors, [source.index], [value.index for value in outputs], self.operators, "main")
        signature = made.SignatureDefT(
            [made.TensorMapT(source.name, source.index)],
            [made.TensorMapT(value.name, value.index) for value in outputs],
            "serving_default",
        )
        model = made.ModelT(SCHEMA_VERSION, [self._code(code) for code in self.codes], [graph], description)
        model.buffers, model.metadata, model.signatureDefs = self.buffers, self.metadata or None, [signature]
        self._zeros.clear()
        builder = flatbuffers.Builder(sum(len(buffer.data) for buffer in self.buffers[1:]) + 65536)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _tensor(self, name: str, shape: Sequence[int], dtype: str, grid: Grid | None) -> Any:
        tensor = self.schema.TensorT(list(shape), getattr(self.schema.TensorType, dtype.upper()), 0, name)
        if grid is not None:
            quantization = _grid(self.schema, grid, self._zeros)
            tensor.quantization = quantization
        tensor.hasRank = True
        self.tensors.append(tensor)
        return tensor

    def _buffer(self, array: NDArray[Any]) -> int:
        self.buffers.append(_aligned_buffer(self.schema, np.ascontiguousarray(array)))
        return len(self.buffers) - 1

    def _code(self, code: str) -> Any:
        number = getattr(self.schema.BuiltinOperator, code)
        return self.schema.OperatorCodeT(min(number, 127), None, self.versions[code], number)


def _packed(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Integers of four bits, two in a byte."""
    integers = array.astype(np.int8).reshape(-1)
    halves = np.append(integers, np.zeros(integers.size % 2, np.int8)).view(np.uint8) & np.uint8(15)
    packed: NDArray[np.uint8] = halves[::2] | np.left_shift(halves[1::2], 4, dtype=np.uint8)
    return packed


def _aligned_buffer(schema: Any, array: NDArray[Any]) -> Any:
    """A buffer that begins at a multiple of ``ALIGNMENT`` in the file."""

    class Buffer(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:  # noqa: N802 - the schema's name
            builder.StartVector(1, len(self.data), ALIGNMENT)
            builder.head -= len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
            data = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, data)
            return schema.BufferEnd(builder)

    return Buffer(array.tobytes())


def _grid(schema: Any, grid: Grid, shared: dict[tuple[int, int], int]) -> Any:
    """Scales and zero-points of a tensor; the runtime wants as many zeros as scales, so equal ones are stored once."""

    class Quantization(schema.QuantizationParametersT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:  # noqa: N802 - the schema's name
            scale = builder.CreateNumpyVector(np.array(grid.scales, np.float32))
            key = (grid.zero, len(grid.scales))
            if key not in shared:
                shared[key] = builder.CreateNumpyVector(np.full(key[1], grid.zero, np.int64))
            schema.QuantizationParametersStart(builder)
            schema.QuantizationParametersAddScale(builder, scale)
            schema.QuantizationParametersAddZeroPoint(builder, shared[key])
            schema.QuantizationParametersAddQuantizedDimension(builder, grid.axis)
            return schema.QuantizationParametersEnd(builder)

    return Quantization()
