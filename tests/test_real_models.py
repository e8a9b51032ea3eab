"""Real trained ResNets on real images: what their makers measured is what we measure, before and after a round trip."""

import csv
import io
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rescompress import checkpoint, data, metrics, models, pipeline, recipe
from rescompress.data import InMemory


@pytest.fixture(scope="module")
def lossless(shared_data: Path) -> InMemory:
    with np.load(shared_data / "cifar10" / "cifar10_test100_lossless.npz", allow_pickle=False) as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"].astype(np.int64))
    return InMemory(images.permute(0, 3, 1, 2).contiguous(), labels)


def through_a_checkpoint(file: Path, folder: Path) -> nn.Module:
    """Load, save, load."""
    checkpoint.save(checkpoint.load(file), folder / "safe.safetensors")
    return checkpoint.load(folder / "safe.safetensors")


@pytest.mark.parametrize(
    ("file", "correct"),
    [
        ("cifar10_resnet20-12fca82f.th", 94),
        ("cifar10_resnet32-d509ac18.th", 92),
        ("cifar10_resnet56-4bfd9763.th", 96),
        ("cifar10_resnet20_jpegft.th", 92),
    ],
)
def test_published_cifar_resnets_keep_their_accuracy_through_a_checkpoint(
    shared_data: Path, lossless: InMemory, tmp_path: Path, file: str, correct: int
) -> None:
    again = through_a_checkpoint(shared_data / "weights" / file, tmp_path)
    preprocessing = models.spec_of(again).preprocessing
    logits = models.predict(again, (images for images, _ in data.batches(lossless, preprocessing, 50)))
    assert metrics.top1(logits.numpy(), lossless.labels.numpy()).correct == correct


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "correct"),
    [
        ("cifar10_resnet20-12fca82f.th", 8103),
        ("cifar10_resnet32-d509ac18.th", 8256),
        ("cifar10_resnet56-4bfd9763.th", 8320),
        ("cifar10_resnet20_jpegft.th", 8753),
    ],
)
def test_ten_thousand_jpeg_images(shared_data: Path, tmp_path: Path, file: str, correct: int) -> None:
    again = through_a_checkpoint(shared_data / "weights" / file, tmp_path)
    preprocessing = models.spec_of(again).preprocessing
    test = data.load("cifar10", preprocessing, root=shared_data / "cifar10").test
    logits = models.predict(again, (images for images, _ in data.batches(test, preprocessing, 250)))
    assert metrics.top1(logits.numpy(), test.labels.numpy()) == metrics.Proportion(correct, 10_000)


@pytest.fixture(scope="module")
def labelled_photos(shared_data: Path) -> InMemory:
    """A thousand photos with ImageNet's labels, cropped to 224 pixels."""
    with zipfile.ZipFile(shared_data / "imagenet" / "nips2017_dev1000_256px_q95.zip") as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("labels.csv").decode())))
        photos = [np.asarray(Image.open(io.BytesIO(archive.read(row["file"]))).convert("RGB")) for row in rows]
    images = torch.from_numpy(np.stack(photos)[:, 16:240, 16:240]).permute(0, 3, 1, 2).contiguous()
    return InMemory(images, torch.tensor([int(row["label"]) for row in rows]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "architecture", "first", "five"),
    [
        ("resnet18_imagenet_pqf.pth.xz", "resnet18", 77.1, 93.2),
        ("resnet50_imagenet_pqf.pth.xz", "resnet50", 84.9, 96.1),
    ],
)
def test_imagenet_resnets_on_a_thousand_photos(
    shared_data: Path,
    labelled_photos: InMemory,
    tmp_path: Path,
    file: str,
    architecture: str,
    first: float,
    five: float,
) -> None:
    with lzma.open(shared_data / "weights" / file) as packed:
        (tmp_path / "plain.pth").write_bytes(packed.read())
    again = through_a_checkpoint(tmp_path / "plain.pth", tmp_path)
    assert str(models.spec_of(again)) == f"torchvision {architecture}, 1000 classes"
    steps = data.batches(labelled_photos, models.spec_of(again).preprocessing, 50)
    best = models.predict(again, (images for images, _ in steps)).topk(5).indices == labelled_photos.labels[:, None]
    assert 100 * best[:, 0].float().mean().item() == pytest.approx(first, abs=0.05)
    assert 100 * best.any(1).float().mean().item() == pytest.approx(five, abs=0.05)


@pytest.mark.slow
def test_int8_resnet20_loses_less_than_half_a_point_on_ten_thousand_images(shared_data: Path, tmp_path: Path) -> None:
    job = recipe.parse(
        {
            "name": "int8",
            "model": str(shared_data / "weights" / "cifar10_resnet20_jpegft.th"),
            "data": {"cifar10": {"root": str(shared_data / "cifar10")}},
            "stages": ["fuse", "quantize"],
            "export": "onnx",
            "prove": "ends",
            "max_accuracy_drop": 0.5,
            "benchmark": False,
        }
    )
    report = pipeline.run(job, tmp_path)
    assert report.artifacts[0].verification.accuracy == metrics.Proportion(8753, 10_000)
    share = report.artifacts[-1].precision.int8_share
    assert share("conv").correct == share("conv").total
    assert share("add").correct == share("add").total == 9
