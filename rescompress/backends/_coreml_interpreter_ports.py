"""Inputs and outputs of a Core ML program as its package describes them (``FeatureTypes.proto``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rescompress.backends._coreml_interpreter_file import REMEDY, Kind
from rescompress.errors import InputRefused

COLOURS: dict[int, Literal["RGB", "BGR"]] = {20: "RGB", 30: "BGR"}
"""Layouts of ``ImageFeatureType.ColorSpace``; grey and FP16 images are none of ours."""
Sizes = tuple[tuple[int, int | None], ...]
ARRAYS = {"fp32": np.float32, "fp16": np.float32, "int32": np.int32}
"""What an array is handed over in; FP16 is rounded here."""
DATA_TYPES = {65568: "fp32", 65552: "fp16", 131104: "int32"}
"""Numbers of ``ArrayFeatureType.ArrayDataType``."""


@dataclass(frozen=True)
class Port:
    """An input or output of a program.

    Attributes:
        name: as the package states it.
        form: ``array``; an ``image`` of pixels; ``probabilities`` of a classifier, in the order of its labels.
        shape: an array's, with None where it is flexible; ``(None, h, w, 3)`` of pixels.
        dtype: as the package states it: ``fp32``, ``fp16``, ``int32``; ``uint8`` of pixels.
        colours: the order in which the program takes a pixel's channels; pixels are handed over as RGB.
        ranges: the smallest and largest size of each axis, None where there is no limit; empty where none is stated.
        choices: the only shapes that are taken; empty where none are enumerated.
    """

    name: str
    form: Literal["array", "image", "probabilities"]
    shape: tuple[int | None, ...]
    dtype: str
    colours: Literal["RGB", "BGR"] | None = None
    ranges: Sizes = ()
    choices: tuple[tuple[int, ...], ...] = ()

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an input may have this shape; of images any number does, as they are shown one by one."""
        if len(shape) != len(self.shape):
            return False
        sizes = shape[1:] if self.form == "image" else shape
        limits = zip(sizes, self.ranges, strict=True) if self.ranges else ()
        return (
            all(want is None or want == size for want, size in zip(self.shape, shape, strict=True))
            and all(low <= size and (high is None or size <= high) for size, (low, high) in limits)
            and (not self.choices or sizes in self.choices)
        )

    def enter(self, array: NDArray[Any]) -> Tensor:
        """An array as it is; pixels as floats from 0 to 255, channels first, in the program's order."""
        if self.form != "image":
            return torch.from_numpy(np.array(array))
        ordered = array if self.colours == "RGB" else array[..., ::-1]
        return torch.from_numpy(np.ascontiguousarray(ordered.transpose(0, 3, 1, 2), dtype=np.float32))

    def check(self, array: NDArray[Any]) -> None:
        """Refuse what the port does not take.

        Raises:
            InputRefused: the array is of another type or shape.
        """
        dtype = np.uint8 if self.form == "image" else ARRAYS[self.dtype]
        if array.dtype != dtype or not self.takes(array.shape):
            fact = f"The input {self.name} takes {self.shape} in {np.dtype(dtype)}, not {array.shape} in {array.dtype}"
            limits = self.choices or self.ranges
            raise InputRefused(f"{fact}{f' (limits: {limits})' if limits else ''}.", "Give it that.")


def port_of(feature: Any, kinds: Mapping[str, Kind], labels: tuple[str, ...] = ()) -> Port:
    """What a ``FeatureDescription`` says about an input or output.

    Args:
        feature: the message.
        kinds: types that the program states for its values.
        labels: of the classifier, if it is one.

    Raises:
        InputRefused: it is of a type that the interpreter doesn't know.
    """
    name, form = feature.name, feature.type.WhichOneof("Type")
    if name not in kinds:
        raise InputRefused(f"The program has no value {name}, which its description names.", REMEDY)
    kind = kinds[name]
    array, image = feature.type.multiArrayType, feature.type.imageType
    if form == "multiArrayType" and kind.dtype == DATA_TYPES.get(array.dataType):
        ranges = _ranges(array.shapeRange.sizeRanges)
        if len(ranges) in (0, len(kind.shape)):
            choices = tuple(tuple(map(int, row.shape)) for row in array.enumeratedShapes.shapes)
            return Port(name, "array", kind.shape, kind.dtype, ranges=ranges, choices=choices)
    if form == "imageType" and image.colorSpace in COLOURS and kind.shape[:2] == (1, 3):
        limits = image.imageSizeRange
        ranges = _ranges([limits.heightRange, limits.widthRange]) if image.HasField("imageSizeRange") else ()
        choices = tuple((int(row.height), int(row.width), 3) for row in image.enumeratedSizes.sizes)
        sides = (None, *kind.shape[2:], 3)
        return Port(
            name, "image", sides, "uint8", COLOURS[image.colorSpace], (*ranges, (3, 3)) if ranges else (), choices
        )
    if form == "dictionaryType" and labels:
        return Port(name, "probabilities", (None, len(labels)), "fp32")
    raise InputRefused(f"{name} is a {form} of a kind that the interpreter doesn't know.", REMEDY)


def _ranges(messages: Any) -> Sizes:
    """``SizeRange`` messages; a negative upper bound is none."""
    return tuple((int(row.lowerBound), int(row.upperBound) if row.upperBound >= 0 else None) for row in messages)
