"""Labelled images in folders, one folder per class: the layout of torchvision's ImageFolder."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Int, UInt8
from pydantic import Field
from torch import Tensor

from rescompress.data import Data
from rescompress.data._images import decode, fit, gather
from rescompress.data._splits import balanced_order, digest, hold_out
from rescompress.errors import InputRefused
from rescompress.progress import track
from rescompress.spec import Preprocessing

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
LAYOUT = "Lay it out as train/CLASS/*.jpg and val/CLASS/*.jpg."


@dataclass(frozen=True)
class Files:
    """A split whose images are decoded each time they are read.

    Attributes:
        root: the folder that ``names`` are relative to.
        names: one file per image.
        sizes_bytes: of each file; a changed size is how a fingerprint notices a changed image.
        labels: class of each image.
        preprocessing: size of the images.
    """

    root: Path
    names: tuple[str, ...]
    sizes_bytes: tuple[int, ...]
    labels: Int[Tensor, " n"]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "b 3 h w"]:
        """Decode, resize and crop these images in threads.

        Raises:
            InputRefused: a file can't be decoded, or is too large to be.
        """
        return gather(self._one, indices, self.preprocessing.crop)

    def take(self, indices: Int[Tensor, " m"]) -> "Files":
        """The split that holds these images only."""
        chosen: list[int] = indices.tolist()
        names = tuple(self.names[index] for index in chosen)
        sizes_bytes = tuple(self.sizes_bytes[index] for index in chosen)
        return Files(self.root, names, sizes_bytes, self.labels[indices], self.preprocessing)

    def _one(self, index: int) -> UInt8[Tensor, "3 h w"]:
        path = self.root / self.names[index]
        return fit(decode(path, str(path)), self.preprocessing)


def load(
    preprocessing: Preprocessing,
    *,
    root: Annotated[Path, Field(description="folder that holds train/ and val/")],
    calibration_images: Annotated[int, Field(gt=0)] = 512,
) -> Data:
    """Images in folders: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg (or ROOT/test).

    Where both val and test exist, val is the one that gives accuracy. Every split is in a class-balanced order, the
    same in every run.

    Args:
        preprocessing: size of the images.
        root: folder that holds train/ and val/ (or test/), each with one folder per class.
        calibration_images: at most so many are taken from calibration/, or held out of train where there is none.

    Raises:
        InputRefused: the folders are missing or empty, or val holds a class that train doesn't.
    """
    train_folder, test_folder = _folders(root)
    classes = _classes(train_folder)
    train = _scan(root, train_folder, classes, preprocessing)
    test = _scan(root, test_folder, classes, preprocessing)
    test = test.take(balanced_order(test.labels))
    if (root / "calibration").is_dir():
        calibration = _scan(root, root / "calibration", classes, preprocessing)
        calibration = calibration.take(balanced_order(calibration.labels)[:calibration_images])
        train = train.take(balanced_order(train.labels))
    else:
        rest, held = hold_out(train.labels, calibration_images)
        train, calibration = train.take(rest), train.take(held)
    fingerprint = digest(_facts(preprocessing, train, calibration, test))
    return Data("imagefolder", classes, train, calibration, test, fingerprint)


def _folders(root: Path) -> tuple[Path, Path]:
    if not root.is_dir():
        raise InputRefused(f"There is no folder {root}.", "Set root to the folder that holds train and val.")
    if not (root / "train").is_dir():
        flat = any(_images(folder) for folder in root.iterdir() if folder.is_dir() and not _hidden(folder.name))
        found = "holds class folders, but no folder train" if flat else "holds no folder train"
        raise InputRefused(f"{root} {found}.", LAYOUT)
    for name in ("val", "test"):
        if (root / name).is_dir():
            return root / "train", root / name
    raise InputRefused(f"{root} holds neither a folder val nor a folder test.", LAYOUT)


def _classes(folder: Path) -> tuple[str, ...]:
    found = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _hidden(entry.name)))
    if not found:
        raise InputRefused(f"{folder} holds no class folder.", LAYOUT)
    return found


def _scan(root: Path, folder: Path, classes: tuple[str, ...], preprocessing: Preprocessing) -> Files:
    found = _classes(folder)
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise InputRefused(
            f"{folder} holds the class '{unknown[0]}', which train doesn't.",
            "Give every class a folder in train, or remove this one.",
        )
    names: list[str] = []
    labels: list[int] = []
    for name in track(found, f"listing {folder.name}"):
        images = _images(folder / name)
        if not images:
            raise InputRefused(
                f"{folder / name} holds no image.", f"Put images into it ({', '.join(SUFFIXES)}), or remove it."
            )
        names += [os.path.relpath(image, root) for image in images]
        labels += [classes.index(name)] * len(images)
    sizes_bytes = tuple(_size_bytes(root / name) for name in names)
    return Files(root, tuple(names), sizes_bytes, torch.tensor(labels, dtype=torch.int64), preprocessing)


def _images(folder: Path) -> list[str]:
    return sorted(
        os.path.join(parent, file)
        for parent, _, files in os.walk(folder)
        for file in files
        if file.lower().endswith(SUFFIXES) and not _hidden(file)
    )


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputRefused(f"{path} can't be read ({error.strerror}).", "Replace or remove the file.") from error


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _facts(preprocessing: Preprocessing, *splits: Files) -> Iterator[str | bytes]:
    yield f"imagefolder {preprocessing.resize} {preprocessing.crop}"
    for split in splits:
        yield f"{len(split)} images"
        for name, size_bytes in zip(split.names, split.sizes_bytes, strict=True):
            yield os.fsencode(name.replace(os.sep, "/"))
            yield str(size_bytes)
