"""What an artifact is shown: the test split, or seeded noise where there is no data, as pixels or normalized."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rescompress import data
from rescompress.artifact import Manifest
from rescompress.backends import Images
from rescompress.data import Data

SEED = 0


@dataclass(frozen=True)
class Shown:
    """Some images twice.

    Attributes:
        taken: as the artifact takes them, ``[n, 3, h, w]`` in float32 or ``[n, h, w, 3]`` in uint8.
        normalized: as the model takes them, ``[n, 3, h, w]``.
        labels: class of each; 0 of noise.
    """

    taken: Images
    normalized: Tensor
    labels: NDArray[np.int64]


def shown(images: Data | None, manifest: Manifest, batch: int, count: int) -> Iterator[Shown]:
    """The first so many test images in batches; without data seeded noise: random bytes where pixels are taken."""
    preprocessing, side = manifest.model.preprocessing, manifest.model.preprocessing.crop
    if images is not None:
        for pixels, labels in data.crops(images.test, batch, count):
            normalized = data.normalize(pixels, preprocessing)
            yield Shown(_taken(pixels, normalized, manifest), normalized, labels.numpy())
        return
    noise = _noise(manifest, (count, 3, side, side))
    for start in range(0, count, batch):
        some = torch.from_numpy(noise[start : start + batch])
        normalized = data.normalize(some, preprocessing) if manifest.takes_pixels else some
        yield Shown(_taken(some, normalized, manifest), normalized, np.zeros(len(some), np.int64))


def sample_images(images: Data | None, manifest: Manifest, count: int) -> Images:
    """So many test images as an artifact takes them; seeded noise where there is no data."""
    return next(shown(images, manifest, count, count)).taken


def _noise(manifest: Manifest, shape: tuple[int, ...]) -> Images:
    rng = np.random.default_rng(SEED)
    if manifest.takes_pixels:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape, dtype=np.float32)


def _taken(pixels: Tensor, normalized: Tensor, manifest: Manifest) -> Images:
    """``[n, h, w, 3]`` bytes, or the normalized images."""
    return pixels.permute(0, 2, 3, 1).contiguous().numpy() if manifest.takes_pixels else normalized.numpy()
