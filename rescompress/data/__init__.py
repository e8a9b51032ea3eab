"""Where labelled images come from: one file per source, each with ``load(preprocessing, *, knobs) -> Data``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from rescompress import catalog
from rescompress.errors import InputRefused
from rescompress.knobs import check
from rescompress.spec import Preprocessing

PACKAGE = "rescompress.data"


@runtime_checkable
class Split(Protocol):
    """Labelled images, resized and cropped but not yet normalized."""

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Class of each image, an index into the source's classes."""
        ...

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "b 3 h w"]:
        """The images at these places, RGB, 0 to 255."""
        ...


@dataclass(frozen=True)
class Data:
    """Three disjoint splits of one source.

    Attributes:
        classes: name of each class; a label is an index into it.
        train: images that weights may be fitted on.
        calibration: images that INT8 ranges may be read off; none of them is in ``train`` or ``test``.
        test: images that only ever give accuracy.
        fingerprint: digest of the images and the split, so that a run knows when its data changed.
    """

    source: str
    classes: tuple[str, ...]
    train: Split
    calibration: Split
    test: Split
    fingerprint: str


@dataclass(frozen=True)
class InMemory:
    """A split whose decoded images fit in memory."""

    images: UInt8[Tensor, "n 3 h w"]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "b 3 h w"]:
        """The images at these places."""
        return self.images[torch.as_tensor(indices, dtype=torch.int64)]


def load(source: str, preprocessing: Preprocessing, **knobs: Any) -> Data:
    """Open a data source by its file's name.

    Raises:
        RecipeError: there is no such source, or a knob of it is wrong.
        InputRefused: its files are missing, empty or corrupt.
    """
    opening = catalog.load(PACKAGE, source).load
    data: Data = opening(preprocessing, **check(opening, knobs, source))
    for name, split in (("train", data.train), ("calibration", data.calibration), ("test", data.test)):
        if not len(split):
            raise InputRefused(f"The {name} split of {source} holds no image.", "Check the folder's layout.")
    return data


def normalize(images: UInt8[Tensor, "b 3 h w"], preprocessing: Preprocessing) -> Float[Tensor, "b 3 h w"]:
    """Bytes to the network's input: ``(x / 255 - mean) / std`` per channel."""
    mean = torch.tensor(preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(preprocessing.std).view(3, 1, 1)
    return (images.float() / 255 - mean.to(images.device)) / std.to(images.device)


def batches(
    split: Split, preprocessing: Preprocessing, batch: int, limit: int | None = None, rows: range | None = None
) -> Iterator[tuple[Float[Tensor, "b 3 h w"], Int[Tensor, " b"]]]:
    """Normalized images and labels in the split's order.

    Args:
        split: labelled images.
        preprocessing: how they are normalized.
        batch: images at a time.
        limit: stop after so many images.
        rows: these places only, neighbours.
    """
    for images, labels in crops(split, batch, limit, rows):
        yield normalize(images, preprocessing), labels


def crops(
    split: Split, batch: int, limit: int | None = None, rows: range | None = None
) -> Iterator[tuple[UInt8[Tensor, "b 3 h w"], Int[Tensor, " b"]]]:
    """Images before they are normalized, and labels, in the split's order; arguments as of ``batches``."""
    count = len(split) if limit is None else min(limit, len(split))
    rows = range(count) if rows is None else rows
    for start in range(rows.start, rows.stop, batch):
        indices = range(start, min(start + batch, rows.stop))
        yield split.read(indices), split.labels[start : indices.stop]
