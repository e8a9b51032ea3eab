"""CIFAR-10 (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Int, UInt8
from PIL import Image
from pydantic import Field
from torch import Tensor

from rescompress.data import Data
from rescompress.data._cifar10_files import SIDE, Images, read_packed, read_records
from rescompress.data._images import fit, gather
from rescompress.data._splits import balanced_order, digest, hold_out, indices_bytes
from rescompress.errors import InputRefused
from rescompress.spec import Preprocessing

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_BATCH = "test_batch.bin"
TRAIN_PACK, TEST_PACK = "cifar10_jpeg_train.npz", "cifar10_jpeg_test.npz"
BINARY = "Unpack cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html there."


@dataclass(frozen=True)
class Rows:
    """A split that is decoded when it is first read, and then kept.

    Attributes:
        name: of the split.
        source: where the images come from.
        rows: which of the source's images these are.
        preprocessing: size of the images.
    """

    name: str
    source: Images
    rows: Int[Tensor, " n"]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def labels(self) -> Int[Tensor, " n"]:
        """Class of each image."""
        return self.source.labels[self.rows]

    @cached_property
    def images(self) -> UInt8[Tensor, "n 3 32 32"]:
        """The decoded images, not yet resized."""
        return self.source.decode(self.rows, f"decoding CIFAR-10's {self.name} split")

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "b 3 h w"]:
        """These images, resized only if the preprocessing wants another size than 32.

        Raises:
            InputRefused: an image of the split is damaged.
        """
        images = self.images
        if self.preprocessing.resize == self.preprocessing.crop == SIDE:
            return images[torch.as_tensor(indices, dtype=torch.int64)]

        def one(index: int) -> UInt8[Tensor, "3 h w"]:
            return fit(Image.fromarray(images[index].permute(1, 2, 0).numpy()), self.preprocessing)

        return gather(one, indices, self.preprocessing.crop)


def load(
    preprocessing: Preprocessing,
    *,
    root: Annotated[Path, Field(description="folder of the binary version or of the packed JPEGs")],
    calibration_images: Annotated[int, Field(gt=0)] = 512,
    test_images: Annotated[int | None, Field(gt=0)] = None,
) -> Data:
    """CIFAR-10: 50,000 images for training and calibration, 10,000 for the test, 32 x 32 pixels.

    Read from the official binary version or, where ROOT has none, from a pair of npz archives of JPEGs (which are
    not the official pixels). Every split is in a class-balanced order, the same in every run.

    Args:
        preprocessing: size of the images.
        root: folder that holds the .bin files, or cifar-10-batches-bin/, or cifar10_jpeg_train.npz and _test.npz.
        calibration_images: how many training images are held out for calibration, at most half of each class.
        test_images: how many test images judge, as many of each class; none takes all.

    Raises:
        InputRefused: the files are missing, pickled, truncated or damaged.
    """
    trained, tested = _open(root)
    rest, held = hold_out(trained.labels, calibration_images)
    order = balanced_order(tested.labels)[:test_images]
    size = f"{preprocessing.resize} {preprocessing.crop}"
    splits = map(indices_bytes, (rest, held, order))
    fingerprint = digest(["cifar10", size, trained.sha256, tested.sha256, *splits])
    return Data(
        "cifar10",
        CLASSES,
        Rows("train", trained, rest, preprocessing),
        Rows("calibration", trained, held, preprocessing),
        Rows("test", tested, order, preprocessing),
        fingerprint,
    )


def _open(root: Path) -> tuple[Images, Images]:
    if not root.is_dir():
        raise InputRefused(f"There is no folder {root}.", "Set root to the folder that holds CIFAR-10.")
    for folder in (root, root / "cifar-10-batches-bin"):
        if any((folder / name).is_file() for name in (*TRAIN_BATCHES, TEST_BATCH)):
            _check_batches(folder)
            train = read_records(tuple(folder / name for name in TRAIN_BATCHES))
            return train, read_records((folder / TEST_BATCH,))
    packs = (root / TRAIN_PACK, root / TEST_PACK)
    if any(pack.is_file() for pack in packs):
        _check_present(packs)
        return read_packed(packs[0]), read_packed(packs[1])
    if (root / "cifar-10-batches-py").is_dir() or (root / "data_batch_1").is_file():
        raise InputRefused(f"{root} holds CIFAR-10 as pickles, which can run any code when they are read.", BINARY)
    raise InputRefused(f"{root} holds no CIFAR-10.", BINARY)


def _check_batches(folder: Path) -> None:
    batches = tuple(folder / name for name in (*TRAIN_BATCHES, TEST_BATCH))
    _check_present(batches)
    largest = max(batches, key=lambda batch: batch.stat().st_size)
    for batch in batches:
        if batch.stat().st_size != largest.stat().st_size:
            raise InputRefused(f"{batch} is shorter than {largest.name}, so it is truncated.", BINARY)


def _check_present(paths: tuple[Path, ...]) -> None:
    for path in paths:
        if not path.is_file():
            raise InputRefused(f"{path} is missing.", "Download or copy the whole set again.")
