"""PyTorch's padding in LiteRT's terms: SAME or VALID where they are equal to it, else a PAD of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rescompress.backends._litert_file import Value
from rescompress.backends._litert_graph import Translation

Padding = Literal["SAME", "VALID"]
LOWEST = {"float32": np.float32(np.finfo(np.float32).min), "int8": np.int8(-128)}


@dataclass(frozen=True)
class Window:
    """A window that slides over an image.

    Attributes:
        size: of the image, ``(h, w)``, as the other attributes.
        made: how many places the window takes.
        kernel: its extent.
        stride: its steps.
        pads: before the image; behind it, as many as the last place needs.
        dilation: distance of its elements.
    """

    size: tuple[int, int]
    made: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    @property
    def reach(self) -> tuple[int, int]:
        """Extent with dilation."""
        high, wide = (d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        return high, wide

    @property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """Rows before and behind, then columns."""
        axes = zip(self.size, self.made, self.reach, self.stride, self.pads, strict=True)
        return tuple((p, max(0, (n - 1) * s + reach - size - p)) for size, n, reach, s, p in axes)

    @property
    def same(self) -> bool:
        """Whether SAME adds just these margins (``total = max((ceil(size / s) - 1) s + reach - size, 0)``)."""
        wanted = []
        for size, made, reach, s in zip(self.size, self.made, self.reach, self.stride, strict=True):
            total = max(0, (-(-size // s) - 1) * s + reach - size)
            wanted.append((total // 2, total - total // 2) if made == -(-size // s) else None)
        return tuple(wanted) == self.margins

    @property
    def options(self) -> dict[str, int]:
        """The strides, by the schema's names."""
        return {"strideH": self.stride[0], "strideW": self.stride[1]}

    @property
    def dilations(self) -> dict[str, int]:
        """The dilation, by the schema's names."""
        return {"dilationHFactor": self.dilation[0], "dilationWFactor": self.dilation[1]}

    @property
    def filters(self) -> dict[str, int]:
        """The extent, by the schema's names."""
        return {"filterHeight": self.kernel[0], "filterWidth": self.kernel[1]}


def padded(
    t: Translation, x: Value, window: Window, name: str, *, lowest: bool = False, explicit: bool = False
) -> tuple[Value, Padding]:
    """What a window slides over and the padding that its operator says.

    Args:
        t: is written to.
        x: images, channels last.
        window: what slides over them.
        name: of the tensor that PAD makes.
        lowest: pad with the lowest number, which no maximum takes; else with zeros, in INT8 with the zero-point.
        explicit: pad even where SAME has the same margins.
    """
    margins = window.margins
    if not any(map(any, margins)):
        return x, "VALID"
    if window.same and not explicit:
        return x, "SAME"
    shape = [size + sum(margin) for size, margin in zip(window.size, margins, strict=True)]
    inputs: list[Any] = [x, t.file.constant(f"{name}/pads", np.array([(0, 0), *margins, (0, 0)], np.int32))]
    zero_is_lowest = x.grid is not None and x.grid.zero == LOWEST["int8"]
    if lowest and not zero_is_lowest:
        inputs.append(t.file.constant(f"{name}/lowest", LOWEST[x.dtype].reshape(1), x.grid))
    return t.move("PADV2" if len(inputs) == 3 else "PAD", inputs, f"{name}/padded", [*shape, x.shape[-1]]), "VALID"


def pair(argument: int | Sequence[int]) -> tuple[int, int]:
    """One number or two, or one in a list, as two."""
    numbers = [argument] if isinstance(argument, int) else list(argument)
    return numbers[0], numbers[-1]
