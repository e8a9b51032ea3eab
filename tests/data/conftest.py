"""A small root for each source that reads one, with noise for images."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rescompress.spec import Preprocessing

RECORDS = 60


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing(resize=32, crop=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    """Three classes of unequal size, images of unequal shape."""
    random = np.random.default_rng(0)
    root = tmp_path / "folders"
    for split, per_class in (("train", (20, 10, 7)), ("val", (6, 4, 3))):
        for name, count in zip(("ant", "bee", "cat"), per_class, strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (40 + number, 60 - number, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root


@pytest.fixture
def binary_root(tmp_path: Path) -> Path:
    """CIFAR-10's binary layout with batches of 60 records, sorted by class."""
    random = np.random.default_rng(1)
    folder = tmp_path / "cifar" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        records = random.integers(0, 256, (RECORDS, 3073), dtype=np.uint8)
        records[:, 0] = np.sort(np.arange(RECORDS) % 10)
        records.tofile(folder / f"{name}.bin")
    return folder.parent


@pytest.fixture
def packed_root(tmp_path: Path) -> Path:
    """The pair of npz archives: JPEG bytes with the common header stored once, sorted by class."""
    random = np.random.default_rng(2)
    root = tmp_path / "packed"
    root.mkdir()
    for split, count in (("train", 80), ("test", 40)):
        encoded = [_jpeg(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(count)]
        header = encoded[0][: encoded[0].index(b"\xff\xda")]
        scans = [image.removeprefix(header) for image in encoded]
        np.savez(
            root / f"cifar10_jpeg_{split}.npz",
            header=np.frombuffer(header, np.uint8),
            scans=np.frombuffer(b"".join(scans), np.uint8),
            offsets=np.cumsum([0, *map(len, scans)]).astype(np.int32),
            labels=np.sort(np.arange(count) % 10).astype(np.uint8),
        )
    return root


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()
