"""Real trained ResNets on real images: what their makers measured is what we measure, before and after a round trip."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rescompress import checkpoint, data, metrics, models, pipeline, recipe
from rescompress.data import InMemory


@pytest.fixture(scope="module")
def lossless(shared_data: Path) -> InMemory:
    with np.load(shared_data / "cifar10" / "cifar10_test100_lossless.npz", allow_pickle=False) as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"].astype(np.int64))
    return InMemory(images.permute(0, 3, 1, 2).contiguous(), labels)


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
    model = checkpoint.load(shared_data / "weights" / file)
    checkpoint.save(model, tmp_path / "safe.safetensors")
    again = checkpoint.load(tmp_path / "safe.safetensors")
    preprocessing = models.spec_of(again).preprocessing
    logits = models.predict(again, (images for images, _ in data.batches(lossless, preprocessing, 50)))
    assert metrics.top1(logits.numpy(), lossless.labels.numpy()).correct == correct


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
