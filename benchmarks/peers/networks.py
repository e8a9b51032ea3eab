"""The benchmarks' networks: where their weights lie, and which images calibrate and which judge them."""

import csv
import io
import lzma
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import rescompress
from rescompress import data, models
from rescompress.context import Context
from rescompress.data import InMemory, Split

Array = np.ndarray[Any, Any]
PHOTOS = "imagenet/nips2017_dev1000_256px_q95.zip"
LOSSLESS = "cifar10/cifar10_train4000_lossless.npz"
CALIBRATING = {"jpeg": 512, "lossless": 512, "photos": 200}
BATCHES = {"jpeg": 50, "lossless": 50, "photos": 10}
"""Images per call where logits are gathered."""


@dataclass(frozen=True)
class Network:
    """One trained network.

    Attributes:
        weights: its file, below ``weights/``.
        images: ``jpeg``: CIFAR-10 re-encoded as JPEG, calibrated on its training images; ``lossless``: calibrated on
            original training images, judged on the JPEG test images (they cost it some ten points, in FP32 as well);
            ``photos``: calibrated on the first 200 labelled photos, judged on the other 800.
    """

    weights: str
    images: str


NETWORKS = {
    "resnet20_jpegft": Network("cifar10_resnet20_jpegft.th", "jpeg"),
    "resnet20": Network("cifar10_resnet20-12fca82f.th", "lossless"),
    "resnet32": Network("cifar10_resnet32-d509ac18.th", "lossless"),
    "resnet56": Network("cifar10_resnet56-4bfd9763.th", "lossless"),
    "resnet18": Network("resnet18_imagenet_pqf.pth.xz", "photos"),
    "resnet50": Network("resnet50_imagenet_pqf.pth.xz", "photos"),
}


def weights(network: Network, folder: Path, place: Path) -> Path:
    """The checkpoint as ``rescompress.load`` reads it; an xz-compressed one is unpacked into PLACE."""
    file = folder / "weights" / network.weights
    if file.suffix != ".xz":
        return file
    unpacked = place / "weights.pth"
    if not unpacked.is_file():
        unpacked.write_bytes(lzma.decompress(file.read_bytes()))
    return unpacked


def prepare(kind: str, folder: Path, place: Path, file: Path) -> None:
    """Write the images of one kind, once.

    ``calibration.npz`` holds bytes and labels, ``calibration.npy`` and ``test.npy`` what networks take
    ``[n, 3, h, w]``, ``labels.npy`` the test images' labels.
    """
    if (place / "labels.npy").is_file():
        return
    place.mkdir(parents=True, exist_ok=True)
    model = rescompress.load(file)
    calibration, test = splits(kind, folder, model)
    calibration = InMemory(calibration.read(range(CALIBRATING[kind])), calibration.labels[: CALIBRATING[kind]])
    np.savez(place / "calibration.npz", images=calibration.images.numpy(), labels=calibration.labels.numpy())
    np.save(place / "calibration.npy", inputs(calibration, model))
    np.save(place / "test.npy", inputs(test, model))
    np.save(place / "labels.npy", test.labels.numpy())


def inputs(split: Split, model: torch.nn.Module) -> Array:
    """All normalized images of a split ``[n, 3, h, w]``."""
    steps = data.batches(split, models.spec_of(model).preprocessing, 100)
    return np.concatenate([images.numpy() for images, _ in steps])


def splits(kind: str, folder: Path, model: torch.nn.Module) -> tuple[Split, Split]:
    """Images to calibrate on, and images to judge by."""
    if kind == "photos":
        images, labels = photos(folder / PHOTOS)
        some = CALIBRATING[kind]
        return InMemory(images[:some], labels[:some]), InMemory(images[some:], labels[some:])
    jpeg = Context.of(model, "cifar10", root=folder / "cifar10").images("benchmark")
    if kind == "jpeg":
        return jpeg.calibration, jpeg.test
    with np.load(folder / LOSSLESS) as pack:
        images = torch.from_numpy(pack["images"]).permute(0, 3, 1, 2).contiguous()
        return InMemory(images, torch.from_numpy(pack["labels"].astype(np.int64))), jpeg.test


def photos(packed: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All labelled photos of an archive in its order, their middle 224 of 256 pixels, and their labels."""
    with zipfile.ZipFile(packed) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("labels.csv").decode("utf-8"))))
        images = [
            np.asarray(Image.open(io.BytesIO(archive.read(row["file"]))).convert("RGB").crop((16, 16, 240, 240)))
            for row in rows
        ]
    labels = torch.tensor([int(row["label"]) for row in rows])
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), labels
