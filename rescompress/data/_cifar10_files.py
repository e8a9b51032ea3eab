"""The two layouts of CIFAR-10 on disk: the official binary records, and JPEGs packed into npz archives."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, Shaped, UInt8
from torch import Tensor

from rescompress.data._images import decode
from rescompress.errors import InputRefused
from rescompress.progress import track

SIDE = 32
CLASS_COUNT = 10
RECORD_BYTES = 1 + 3 * SIDE * SIDE
AGAIN = "Download or copy it again; it looks truncated."


@runtime_checkable
class Images(Protocol):
    """Labelled images on disk, of which some rows can be decoded."""

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Class of each image."""
        ...

    @property
    def sha256(self) -> str:
        """Digest of the files' bytes."""
        ...

    def decode(self, rows: Int[Tensor, " m"], doing: str) -> UInt8[Tensor, "m 3 32 32"]:
        """The images in these rows, while a progress bar says what is being done."""
        ...


@dataclass(frozen=True)
class Records:
    """The binary layout: for each image one byte of label, then 1,024 bytes each of red, green and blue."""

    paths: tuple[Path, ...]
    labels: Int[Tensor, " n"]
    sha256: str

    def decode(self, rows: Int[Tensor, " m"], doing: str) -> UInt8[Tensor, "m 3 32 32"]:
        """The images in these rows; reading is so quick that ``doing`` is not shown."""
        records = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, RECORD_BYTES) for path in self.paths])
        return torch.from_numpy(records[rows.numpy(), 1:]).reshape(-1, 3, SIDE, SIDE)


@dataclass(frozen=True)
class Packed:
    """JPEGs that share one header: image i is the header and ``scans[offsets[i]:offsets[i + 1]]``."""

    path: Path
    header: bytes
    scans: bytes
    offsets: tuple[int, ...]
    labels: Int[Tensor, " n"]
    sha256: str

    def decode(self, rows: Int[Tensor, " m"], doing: str) -> UInt8[Tensor, "m 3 32 32"]:
        """Decode the images in these rows, one after the other: for images this small threads took twice as long.

        Raises:
            InputRefused: an image is damaged or has another size.
        """
        images = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
        for place, row in enumerate(track(rows.tolist(), doing)):
            images[place] = self._one(row)
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def _one(self, row: int) -> UInt8[np.ndarray, "32 32 3"]:
        name = f"Image {row} of {self.path}"
        encoded = BytesIO(self.header + self.scans[self.offsets[row] : self.offsets[row + 1]])
        pixels = np.asarray(decode(encoded, name, max_pixels=SIDE * SIDE))
        if pixels.shape != (SIDE, SIDE, 3):
            raise InputRefused(f"{name} is not {SIDE} x {SIDE} pixels.", AGAIN)
        return pixels


def read_records(paths: tuple[Path, ...]) -> Records:
    """Open batches of the binary layout; only the labels stay in memory.

    Raises:
        InputRefused: a batch is empty, cut off in the middle of a record, or holds a label above 9.
    """
    sha256 = hashlib.sha256()
    labels = []
    for path in paths:
        if not path.stat().st_size or path.stat().st_size % RECORD_BYTES:
            raise InputRefused(f"{path} is not a whole number of {RECORD_BYTES}-byte records.", AGAIN)
        records = np.fromfile(path, np.uint8).reshape(-1, RECORD_BYTES)
        sha256.update(records.data)
        labels.append(torch.from_numpy(records[:, 0].astype(np.int64)))
        _check_labels(path, labels[-1])
    return Records(paths, torch.cat(labels), sha256.hexdigest())


def read_packed(path: Path) -> Packed:
    """Open one npz archive of packed JPEGs; none of them is decoded yet.

    Raises:
        InputRefused: the archive is damaged or its arrays don't fit together.
    """
    try:
        raw = path.read_bytes()
        with np.load(BytesIO(raw), allow_pickle=False) as archive:
            header, scans, offsets, labels = (archive[key] for key in ("header", "scans", "offsets", "labels"))
    except Exception as error:  # zipfile, zlib and numpy each have errors of their own for damaged bytes
        raise InputRefused(f"{path} is not an archive of packed JPEGs ({type(error).__name__}).", AGAIN) from error
    if not _fit_together(header, scans, offsets, labels):
        raise InputRefused(f"The arrays in {path} don't fit together.", AGAIN)
    classes = torch.from_numpy(labels.astype(np.int64))
    _check_labels(path, classes)
    sha256 = hashlib.sha256(raw).hexdigest()
    return Packed(path, header.tobytes(), scans.tobytes(), tuple(offsets.tolist()), classes, sha256)


def _fit_together(
    header: Shaped[np.ndarray, "..."],
    scans: Shaped[np.ndarray, "..."],
    offsets: Shaped[np.ndarray, "..."],
    labels: Shaped[np.ndarray, "..."],
) -> bool:
    return (
        all(array.ndim == 1 for array in (header, scans, offsets, labels))
        and all(array.dtype == np.uint8 for array in (header, scans))
        and all(array.dtype.kind in "iu" for array in (offsets, labels))
        and len(offsets) == len(labels) + 1 > 1
        and int(offsets[0]) == 0
        and int(offsets[-1]) == len(scans)
        and bool((np.diff(offsets.astype(np.int64)) > 0).all())
    )


def _check_labels(path: Path, labels: Int[Tensor, " n"]) -> None:
    if not 0 <= int(labels.min()) <= int(labels.max()) < CLASS_COUNT:
        raise InputRefused(f"{path} holds a label outside 0 to {CLASS_COUNT - 1}.", AGAIN)
