"""What a saved ``.mlpackage`` holds: its specification (protobuf) and its constants (``weight.bin``).

Only the protobuf's own classes are taken from coremltools. Its way back into a ``Program`` runs type inference and
value inference, so what would be judged is coremltools' opinion of the file; and its reader of ``weight.bin`` is a
native library that a malformed file should not reach. The file's layout is MILBlob's ``StorageFormat.hpp``.
"""

import json
import logging
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rescompress.errors import InputRefused

Constant = Tensor | str | tuple[str, ...]
"""FP16 and FP32 are float32 tensors, integers of less than 8 bits one byte each; a list of labels is strings."""

REMEDY = "Export the model again."
ENTRY_BYTES = 64
SENTINEL = 0xDEADBEEF
MODEL_PATH = "@model_path/"


@dataclass(frozen=True)
class Dtype:
    """A type of the MIL specification.

    Attributes:
        name: as an op's ``dtype`` parameter spells it.
        numpy: what holds it in memory and in the file.
        blob: its number in ``weight.bin``, None where it can't stand there.
        bits: of one element; below 8 several are packed in a byte, the first in the lowest bits.
    """

    name: str
    numpy: type[np.generic]
    blob: int | None
    bits: int


DTYPES = {
    "BOOL": Dtype("bool", np.bool_, None, 8),
    "FLOAT16": Dtype("fp16", np.float16, 1, 16),
    "FLOAT32": Dtype("fp32", np.float32, 2, 32),
    "INT4": Dtype("int4", np.int8, 8, 4),
    "INT8": Dtype("int8", np.int8, 4, 8),
    "INT16": Dtype("int16", np.int16, 6, 16),
    "INT32": Dtype("int32", np.int32, 14, 32),
    "INT64": Dtype("int64", np.int64, None, 64),
    "UINT1": Dtype("uint1", np.uint8, 9, 1),
    "UINT2": Dtype("uint2", np.uint8, 10, 2),
    "UINT3": Dtype("uint3", np.uint8, 12, 3),
    "UINT4": Dtype("uint4", np.uint8, 11, 4),
    "UINT6": Dtype("uint6", np.uint8, 13, 6),
    "UINT8": Dtype("uint8", np.uint8, 3, 8),
    "UINT16": Dtype("uint16", np.uint16, 7, 16),
    "UINT32": Dtype("uint32", np.uint32, 15, 32),
}
"""By their names in ``MIL.proto``."""


@dataclass(frozen=True)
class Kind:
    """The type that the program states for a value: a dtype's name, and its shape with None where it is flexible."""

    dtype: str
    shape: tuple[int | None, ...] = ()


def read_spec(package: Path) -> tuple[Any, Path]:
    """The specification (``Model`` of ``Model.proto``) and the file that it came from.

    Raises:
        InputRefused: the package is incomplete or damaged.
    """
    manifest = package / "Manifest.json"
    try:
        content = json.loads(manifest.read_text("utf-8"))
        item = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputRefused(f"{manifest} is missing, or does not say where the model is.", REMEDY) from None
    file = _inside(package / "Data", str(item))
    message = _protobuf().Model()
    try:
        message.ParseFromString(file.read_bytes())
    except Exception as error:  # DecodeError and OSError; protobuf's Python and C++ parsers raise types of their own
        raise InputRefused(f"{file} can't be read: {str(error).rstrip('.')}.", REMEDY) from None
    return message, file


class Constants:
    """Decodes the values of a program; files of constants are mapped once.

    Args:
        model: the specification's file; ``@model_path`` is its folder.
    """

    def __init__(self, model: Path) -> None:
        self._folder = model.parent
        self._mapped: dict[str, NDArray[np.uint8]] = {}

    def value(self, value: Any, where: str) -> Constant:
        """A ``Value`` of ``MIL.proto``.

        Args:
            value: the message.
            where: whose value it is, for messages.

        Raises:
            InputRefused: it is of a type that the interpreter doesn't know, or damaged.
        """
        if value.type.WhichOneof("type") == "listType":
            return tuple(self._label(item, where) for item in value.immediateValue.list.values)
        kind, dtype = kind_of(value.type, where), dtype_of(value.type, where)
        tensor = value.immediateValue.tensor
        if kind.dtype == "string":
            strings = tuple(tensor.strings.values)
            return strings if kind.shape else strings[0] if strings else ""
        if dtype is None or None in kind.shape:
            raise InputRefused(f"The constant {where} has no fixed type and shape.", REMEDY)
        shape = [int(size) for size in kind.shape if size is not None]
        count = int(np.prod(shape, dtype=np.int64))
        if value.WhichOneof("value") == "blobFileValue":
            array = self._stored(value.blobFileValue, dtype, count, where)
        else:
            array = _immediate(tensor, dtype, count, where)
        if array.size != count:
            raise InputRefused(f"The constant {where} holds {array.size} values where its shape has {count}.", REMEDY)
        return as_tensor(array.reshape(shape))

    def _label(self, value: Any, where: str) -> str:
        """A class's name; numbers are spelled out."""
        label = self.value(value, where)
        return label if isinstance(label, str) else str(int(cast(Tensor, label)))

    def _stored(self, place: Any, dtype: Dtype, count: int, where: str) -> NDArray[Any]:
        """Values in ``weight.bin``: an entry of 64 bytes says where they are."""
        if dtype.blob is None:
            raise InputRefused(f"The constant {where} is {dtype.name}, which can't be stored in a file.", REMEDY)
        if place.fileName not in self._mapped:
            self._mapped[place.fileName] = self._map(place.fileName)
        file = self._mapped[place.fileName]
        entry = file[place.offset : place.offset + ENTRY_BYTES].tobytes()
        if len(entry) < ENTRY_BYTES:
            raise InputRefused(f"The constant {where} lies past the end of {place.fileName}.", REMEDY)
        sentinel, blob, size, start = struct.unpack_from("<IIQQ", entry)
        if sentinel != SENTINEL or blob != dtype.blob or size != (count * dtype.bits + 7) // 8:
            raise InputRefused(f"{place.fileName} does not hold {where} as {count} values of {dtype.name}.", REMEDY)
        if start + size > len(file):
            raise InputRefused(f"{place.fileName} ends before the values of {where}.", REMEDY)
        return _unpack(file[start : start + size].tobytes(), dtype, count)

    def _map(self, name: str) -> NDArray[np.uint8]:
        if not name.startswith(MODEL_PATH):
            raise InputRefused(f"The weights' file {name} does not lie beside the model.", REMEDY)
        file = _inside(self._folder, name.removeprefix(MODEL_PATH))
        try:
            return np.memmap(file, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise InputRefused(f"The weights' file {file} can't be read: {error}.", REMEDY) from None


def kind_of(kind: Any, where: str) -> Kind:
    """What a ``ValueType`` of ``MIL.proto`` states; lists and dictionaries are ``list`` and ``dictionary``.

    Raises:
        InputRefused: the interpreter doesn't know the type.
    """
    form = kind.WhichOneof("type")
    if form in ("listType", "dictionaryType"):
        return Kind(form.removesuffix("Type"))
    dtype = dtype_of(kind, where)
    dimensions = kind.tensorType.dimensions
    if any(size.unknown.variadic for size in dimensions):
        raise InputRefused(f"{where} has a shape of unknown rank, which the interpreter doesn't know.", REMEDY)
    shape = tuple(
        int(size.constant.size) if size.WhichOneof("dimension") == "constant" else None for size in dimensions
    )
    return Kind(dtype.name if dtype else "string", shape)


def dtype_of(kind: Any, where: str) -> Dtype | None:
    """The dtype of a tensor's ``ValueType``, None for strings.

    Raises:
        InputRefused: it isn't a tensor, or of a dtype that the interpreter doesn't know.
    """
    form = kind.WhichOneof("type")
    if form != "tensorType":
        raise InputRefused(f"{where} is a {form}, which the interpreter doesn't know.", REMEDY)
    number = kind.tensorType.dataType
    names = type(kind.tensorType).DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number
    name = names[number].name if number in names else str(number)
    if name == "STRING":
        return None
    if name not in DTYPES:
        raise InputRefused(f"{where} is {name}, which the interpreter doesn't know.", REMEDY)
    return DTYPES[name]


def as_tensor(array: NDArray[Any]) -> Tensor:
    """A tensor of its own memory; FP16 is widened to FP32, which changes no value."""
    return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float16 else array.copy())


def _immediate(tensor: Any, dtype: Dtype, count: int, where: str) -> NDArray[Any]:
    """Values that stand in the specification itself: numbers, or the bytes of small and half types."""
    form = tensor.WhichOneof("value")
    if form == "bytes":
        content = tensor.bytes.values
        if len(content) != (count * dtype.bits + 7) // 8:
            raise InputRefused(f"The constant {where} has {len(content)} bytes for {count} {dtype.name}.", REMEDY)
        return _unpack(content, dtype, count)
    if form in (None, "strings"):
        raise InputRefused(f"The constant {where} has no values.", REMEDY)
    array: NDArray[Any] = np.array(getattr(tensor, form).values, dtype=dtype.numpy)
    return array


def _unpack(content: bytes, dtype: Dtype, count: int) -> NDArray[Any]:
    """Elements out of their bytes, little-endian; those below 8 bits begin at the lowest bit."""
    if dtype.bits >= 8:
        return np.frombuffer(content, np.dtype(dtype.numpy).newbyteorder("<")).astype(dtype.numpy)
    return unpack_bits(np.frombuffer(content, np.uint8), dtype.bits, count, signed=dtype.numpy is np.int8)


def unpack_bits(packed: NDArray[np.uint8], bits: int, count: int, *, signed: bool = False) -> NDArray[Any]:
    """The first ``count`` integers of so many bits each, packed from the lowest bit of the first byte upwards."""
    rows = np.unpackbits(packed, bitorder="little")[: count * bits].reshape(-1, bits)
    values: NDArray[Any] = (rows.astype(np.int16) << np.arange(bits, dtype=np.int16)).sum(1)
    if signed:
        values = np.where(values >= 2 ** (bits - 1), values - 2**bits, values)
    return values.astype(np.int8 if signed else np.uint8)


def _inside(folder: Path, relative: str) -> Path:
    """A file below a folder of the package.

    Raises:
        InputRefused: the path leads out of it.
    """
    path = PurePosixPath(relative)
    try:
        within = (folder / path).resolve().is_relative_to(folder.resolve()) and ".." not in path.parts
    except ValueError:  # a null byte
        within = False
    if not within:
        raise InputRefused(f"The package names the file {relative!r}, which lies outside of it.", "Don't trust it.")
    return folder / path


def _protobuf() -> Any:
    """The module of ``Model.proto``'s classes; what coremltools misses off macOS is no news here."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from coremltools.proto import Model_pb2
    finally:
        logger.setLevel(level)
    return Model_pb2
