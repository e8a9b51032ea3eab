"""Which values of a network become integers, and which integers they may be."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from rescompress.spec import Precision

Dtype = Literal["uint8", "int8", "int4", "int32"]
LIMITS: dict[Dtype, tuple[int, int]] = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "int4": (-8, 7),
    "int32": (-(2**31), 2**31 - 1),
}
WEIGHT_LIMITS = (-127, 127)
"""INT8 weights leave -128 out, so that a symmetric scale reaches both ends alike."""
WEIGHT_GRIDS: dict[Dtype, tuple[int, int]] = {"int8": WEIGHT_LIMITS, "int4": (-7, 7), "uint8": (1, 255)}
"""Integers of a weight; with ``uint8`` and zero-point 128 it has the very values that it has with ``int8``."""


@dataclass(frozen=True)
class Site:
    """One value that becomes an integer.

    A backend tells the kinds apart by these fields: a weight (``is_weight``) is stored in ``dtype``; an activation
    is quantized to ``dtype`` with the fake-quant's scale and zero-point, or, where ``dynamic``, with those that it has
    at run time. A layer whose weight has a site and whose input has none is weight-only: it computes in float.

    Attributes:
        value: stable name of the value in the captured graph, such as ``layer1.0.relu`` or ``conv1.weight``.
        quantizer: name of the fake-quant; sites that must keep one scale share one quantizer.
        dtype: integer type of the value.
        channels: scales along axis 0 of a weight; None for one scale.
        symmetric: real 0 is integer 0 (128 in a ``uint8`` weight), so the zero-point is not free.
        dynamic: scale and zero-point are those of the whole tensor at run time (ONNX ``DynamicQuantizeLinear``).
    """

    value: str
    quantizer: str
    dtype: Dtype
    channels: int | None = None
    symmetric: bool = False
    dynamic: bool = False

    def __post_init__(self) -> None:
        """Refuse what no runtime has.

        Raises:
            ValueError: an activation in INT4 or with several scales, or a dynamic weight.
        """
        if self.dtype == "int32" or (self.dtype == "int4" and not self.is_weight):
            raise ValueError(f"{self.value} can't be {self.dtype}")
        if self.channels is not None and not self.is_weight:
            raise ValueError(f"{self.value} is an activation, which has one scale")
        if self.dynamic and (self.is_weight or self.dtype != "uint8" or self.symmetric):
            raise ValueError(f"{self.value} can't be quantized at run time, which makes asymmetric uint8")

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer."""
        return (WEIGHT_GRIDS if self.is_weight else LIMITS)[self.dtype]

    @property
    def bits(self) -> int:
        """Bits that one integer takes in a file."""
        low, high = LIMITS[self.dtype]
        return (high - low).bit_length()

    @property
    def is_weight(self) -> bool:
        """Whether the value is a layer's weight, not an activation."""
        return self.value.endswith(".weight")


def precision_of(sites: Collection[Site]) -> Precision:
    """What of a model with such sites is integers."""
    if not sites:
        return "fp32"
    if any(site.dynamic for site in sites):
        return "dynamic"
    narrow = any(site.dtype == "int4" for site in sites)
    if all(site.is_weight for site in sites):
        return "w4" if narrow else "w8"
    return "w4a8" if narrow else "int8"
