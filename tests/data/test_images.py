"""Decoding safely, and resizing and cropping exactly as torchvision does."""

import importlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rescompress.data import _images
from rescompress.data._images import decode, fit
from rescompress.errors import InputRefused
from rescompress.models._torchvision_import import import_torchvision
from rescompress.spec import Preprocessing


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(("height", "width"), [(37, 53), (53, 37), (40, 40), (31, 100), (8, 9)])
def test_resize_and_crop_are_torchvisions(height: int, width: int) -> None:
    import_torchvision()
    transforms = importlib.import_module("torchvision.transforms")
    image = noise(height, width)
    theirs = transforms.Compose([transforms.Resize(36), transforms.CenterCrop(31), transforms.PILToTensor()])
    assert torch.equal(fit(image, Preprocessing(36, 31, (0, 0, 0), (1, 1, 1))), theirs(image))


def test_a_thin_image_is_not_blown_up() -> None:
    with pytest.raises(InputRefused, match="1 x 400000 pixels"):
        fit(Image.new("RGB", (1, 400_000)), Preprocessing(256, 224, (0, 0, 0), (1, 1, 1)))


def test_an_image_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(noise(8, 16), tmp_path / "turned.png", exif=exif)
    turned = np.rot90(np.asarray(noise(8, 16)), -1)
    assert np.array_equal(np.asarray(decode(path, "it")), turned)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_any_8_bit_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = saved(noise(8, 8).convert(mode), tmp_path / "image.tiff")
    assert decode(path, "it").mode == "RGB"


def test_a_16_bit_image_is_refused(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), tmp_path / "deep.png")
    with pytest.raises(InputRefused, match="it has more than 8 bits"):
        decode(path, "it")


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(noise(20, 20), tmp_path / "large.png")
    with pytest.raises(InputRefused, match="it has more than 399 pixels"):
        decode(path, "it", max_pixels=399)
    for pillows_limit in (300, 100):  # 400 pixels: the first makes Pillow warn, the second makes it raise
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
        with pytest.raises(InputRefused, match="pixels"):
            decode(path, "it")


def test_damaged_bytes_are_refused(tmp_path: Path) -> None:
    whole = saved(noise(20, 20), tmp_path / "whole.jpg").read_bytes()
    for damaged in (b"", b"not an image", whole[: len(whole) // 2]):
        with pytest.raises(InputRefused, match="it can't be decoded"):
            decode(io.BytesIO(damaged), "it")


def test_postscript_is_never_opened() -> None:
    buffer = io.BytesIO()
    noise(8, 8).save(buffer, "EPS")
    with pytest.raises(InputRefused, match="UnidentifiedImageError"):
        decode(buffer, "it")
    assert "EPS" not in _images.FORMATS
