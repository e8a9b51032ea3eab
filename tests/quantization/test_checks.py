"""What may go into calibration: each refusal is one sentence of fact that names what is wrong, doubts are notes."""

import csv
import io
import lzma
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import rescompress
from rescompress import progress
from rescompress.data import Data, InMemory
from rescompress.errors import InputRefused
from rescompress.quantization import checks
from rescompress.quantization.checks import matching, shift
from rescompress.spec import CIFAR, IMAGENET, Preprocessing
from tests.networks import fused, noise, stock

RAW = Preprocessing(32, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def scaled(factor: float) -> Preprocessing:
    """As if pixels were so many times as large before they are normalized."""
    mean, std = (tuple(x / factor for x in part) for part in (CIFAR.mean, CIFAR.std))
    return replace(CIFAR, mean=mean, std=std)


WRONG = {
    "half and half": replace(CIFAR, mean=(0.5,) * 3, std=(0.5,) * 3),
    "not normalized": RAW,
    "no standard deviation": replace(CIFAR, std=(1.0,) * 3),
    "no mean": replace(CIFAR, mean=(0.0,) * 3),
    "divided by 255 twice": scaled(1 / 255),
}
IMPOSSIBLE = {
    "0 to 255": replace(RAW, std=(1 / 255,) * 3),
    "0 to 255, then normalized": scaled(255),
    "the mean of 0 to 255, no standard deviation": replace(CIFAR, std=(1 / 255,) * 3),
}


def pixels(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def split(images: Tensor) -> InMemory:
    return InMemory(images, torch.zeros(len(images), dtype=torch.int64))


def data(images: Tensor) -> Data:
    return Data("toy", ("a",), split(images), split(images), split(images), "toy")


def noted(call: Callable[[], object]) -> list[str]:
    with progress.gathered() as notes:
        call()
    return notes


def test_no_images_are_refused() -> None:
    with pytest.raises(InputRefused, match="no calibration images"):
        checks.images(split(pixels(0)), 512)


@pytest.mark.parametrize(("there", "wanted"), [(15, 512), (100, 15)])
def test_too_few_images_are_refused(there: int, wanted: int) -> None:
    with pytest.raises(InputRefused, match="at least 16 images, but there are 15"):
        checks.images(split(pixels(there)), wanted)


def test_copies_of_few_images_are_refused() -> None:
    with pytest.raises(InputRefused, match="16 different images, but among 60 there are 15"):
        checks.images(split(pixels(15).repeat(4, 1, 1, 1)), 512)
    assert checks.images(split(pixels(16).repeat(4, 1, 1, 1)), 512) == 64


def test_only_the_images_that_are_shown_count() -> None:
    images = torch.cat([pixels(1).repeat(40, 1, 1, 1), pixels(40, seed=1)])
    with pytest.raises(InputRefused, match="among 40 there are 1"):
        checks.images(split(images), 40)
    assert checks.images(split(images), 80) == 80


def test_images_of_one_colour_are_refused() -> None:
    plain = torch.arange(64, dtype=torch.uint8).view(-1, 1, 1, 1).expand(64, 3, 8, 8)
    with pytest.raises(InputRefused, match="Every calibration image is of one colour"):
        checks.images(split(plain), 512)
    with pytest.raises(InputRefused, match="among 74 there are 10, and 64 of one colour"):
        checks.images(split(torch.cat([plain, pixels(10)])), 512)


def test_enough_images_are_not_read_to_the_end() -> None:
    class Counting(InMemory):
        def read(self, indices: object) -> Tensor:
            assert isinstance(indices, range)
            assert indices.stop <= 16
            return super().read(indices)

    images = pixels(500)
    assert checks.images(Counting(images, torch.zeros(500, dtype=torch.int64)), 512) == 500


def test_less_than_128_images_are_noted() -> None:
    assert noted(lambda: checks.images(split(pixels(127)), 512)) == [
        "Calibration sees 127 images; ranges vary less with 128 and more."
    ]
    assert noted(lambda: checks.images(split(pixels(128)), 512)) == []


def test_a_shift_is_that_of_the_first_norm_by_its_formula() -> None:
    model = stock("cifar", "resnet8")
    x = noise(model, 16) * 1.5 + 0.3
    with torch.no_grad():
        y = model.conv1(x).double().transpose(0, 1).flatten(1)
    norm = model.bn1
    σ2 = norm.running_var.double()
    floor = norm.eps + checks.NEGLIGIBLE * σ2.mean()
    found = shift(model, x.split(8))
    assert found is not None
    assert found.layer == "bn1"
    assert found.means == pytest.approx(float((((y.mean(1) - norm.running_mean) ** 2 / (σ2 + floor)).mean()) ** 0.5))
    assert found.spread == pytest.approx(
        float(((y.var(1, unbiased=False) + floor) / (σ2 + floor)).log().mean().exp() ** 0.5)
    )


def test_a_network_without_trained_norms_says_nothing() -> None:
    assert shift(fused("cifar", "resnet8"), [noise(stock("cifar", "resnet8"), 16)]) is None
    assert shift(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), [torch.randn(16, 3, 8, 8)]) is None
    images = data(pixels(32))
    assert noted(lambda: matching(None, images, RAW)) == []


def test_the_network_is_left_as_it_was() -> None:
    model = stock("cifar", "resnet8")
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    shift(model.train(), [noise(model, 16)])
    assert all(module.training for module in model.modules())
    assert hooks == [len(module._forward_pre_hooks) for module in model.eval().modules()]
    assert int(model.bn1.num_batches_tracked) == int(stock("cifar", "resnet8").bn1.num_batches_tracked)


@pytest.fixture(scope="module")
def cifar(shared_data: Path) -> dict[str, Tensor]:
    archive = np.load(shared_data / "cifar10" / "cifar10_train4000_lossless.npz")
    lossless = torch.from_numpy(archive["images"][:64])
    lossless = lossless.permute(0, 3, 1, 2).contiguous() if lossless.shape[-1] == 3 else lossless
    model = rescompress.load(shared_data / "weights" / "cifar10_resnet20-12fca82f.th")
    source = rescompress.Context.of(model, "cifar10", root=shared_data / "cifar10", calibration_images=64)
    return {"lossless": lossless, "jpeg": source.images("test").calibration.read(range(64))}


@pytest.fixture(scope="module", params=["resnet20-*", "resnet56-*", "resnet20_jpegft"])
def published(request: pytest.FixtureRequest, shared_data: Path) -> nn.Module:
    return rescompress.load(next((shared_data / "weights").glob(f"cifar10_{request.param}.th")))


@pytest.mark.parametrize("kind", ["lossless", "jpeg"])
def test_images_prepared_as_in_training_pass_silently(
    published: nn.Module, cifar: dict[str, Tensor], kind: str
) -> None:
    assert noted(lambda: matching(published, data(cifar[kind]), CIFAR)) == []


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_normalization_is_noted(published: nn.Module, cifar: dict[str, Tensor], wrong: str) -> None:
    for images in cifar.values():
        (note,) = noted(lambda images=images: matching(published, data(images), WRONG[wrong]))  # type: ignore[misc]
        assert "aren't what bn1 was trained on" in note
        assert "standard deviations off" in note


@pytest.mark.parametrize("wrong", IMPOSSIBLE)
def test_images_that_cannot_be_right_are_refused(published: nn.Module, cifar: dict[str, Tensor], wrong: str) -> None:
    for images in cifar.values():
        with pytest.raises(InputRefused, match=r"bn1 was trained on: .* off and they vary \d+ times"):
            matching(published, data(images), IMPOSSIBLE[wrong])


def test_red_and_blue_exchanged_is_noted(published: nn.Module, cifar: dict[str, Tensor]) -> None:
    for images in cifar.values():
        (note,) = noted(lambda images=images: matching(published, data(images.flip(1)), CIFAR))  # type: ignore[misc]
        assert "better with red and blue exchanged" in note


def test_the_shipped_network_and_its_digits_pass_silently() -> None:
    pytest.importorskip("sklearn")
    model = rescompress.load("digits_resnet20")
    source = rescompress.Context.of(model, "digits")
    assert noted(lambda: matching(model, source.images("test"), model.spec.preprocessing)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_photos_prepared_as_in_training_pass_silently(name: str, shared_data: Path, tmp_path: Path) -> None:
    packed = next((shared_data / "weights").glob(f"{name}_imagenet*.pth.xz"))
    (tmp_path / "weights.pth").write_bytes(lzma.decompress(packed.read_bytes()))
    model = rescompress.load(tmp_path / "weights.pth")
    with zipfile.ZipFile(shared_data / "imagenet" / "nips2017_dev1000_256px_q95.zip") as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("labels.csv").decode("utf-8"))))[:64]
        photos = [np.asarray(Image.open(io.BytesIO(archive.read(row["file"]))).convert("RGB")) for row in rows]
    images = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2)[..., 16:240, 16:240].contiguous()
    assert noted(lambda: matching(model, data(images), IMAGENET)) == []
    assert "red and blue" in noted(lambda: matching(model, data(images.flip(1)), IMAGENET))[0]
    for wrong in WRONG.values():
        assert "trained on" in noted(lambda wrong=wrong: matching(model, data(images), wrong))[0]  # type: ignore[misc]
    for wrong in IMPOSSIBLE.values():
        with pytest.raises(InputRefused, match="trained on"):
            matching(model, data(images), wrong)
