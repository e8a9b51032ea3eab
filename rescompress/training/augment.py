"""Augmentation of whole batches, on whatever device they lie.

What is drawn is drawn for the whole batch, of which a process may hold a part only: the rows ``rows``. So the images
are the same however many processes share a batch.
"""

import importlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from rescompress.models._torchvision_import import import_torchvision
from rescompress.training.schedule import Augment

CHUNK = 16
"""Images that get the same two operations of RandAugment: few enough to differ, enough to be quick."""
OPERATIONS = 2


def shifted(
    images: UInt8[Tensor, "b 3 h w"], kind: Augment, rows: Int[Tensor, " b"], count: int, generator: torch.Generator
) -> UInt8[Tensor, "b 3 h w"]:
    """Shift each image by up to an eighth of its side, zeros coming in, and mirror every other one.

    Args:
        images: the rows of the batch that are here.
        kind: what is done.
        rows: places of these images in the whole batch.
        count: images of the whole batch.
        generator: on the CPU, the same in every process.
    """
    if kind == "none":
        return images
    device, (_, _, h, w) = images.device, images.shape
    reach = max(1, h // 8)
    padded = F.pad(images, (reach,) * 4)
    down, right = torch.randint(0, 2 * reach + 1, (2, count, 1, 1, 1), generator=generator)[:, rows].to(device)
    across = torch.arange(w, device=device).view(1, 1, 1, w) + right
    if kind == "shift+mirror":
        mirror = (torch.rand(count, 1, 1, 1, generator=generator) < 0.5)[rows].to(device)
        across = torch.where(mirror, across.flip(3), across)
    along = (torch.arange(h, device=device).view(1, 1, h, 1) + down).expand(-1, 3, h, padded.shape[3])
    return padded.gather(2, along).gather(3, across.expand(-1, 3, h, w))


def randaugment(
    images: UInt8[Tensor, "b 3 h w"], magnitude: int, rows: Int[Tensor, " b"], seed: int
) -> UInt8[Tensor, "b 3 h w"]:
    """RandAugment (Cubuk et al. 2019, arXiv:1909.13719) of torchvision: two random operations, for each 16 images.

    Args:
        images: the rows of the batch that are here.
        magnitude: 1 to 30.
        rows: places of these images in the whole batch; every 16 places have operations of their own.
        seed: of the batch.
    """
    import_torchvision()
    v2: Any = importlib.import_module("torchvision.transforms.v2")
    draw = v2.RandAugment(num_ops=OPERATIONS, magnitude=magnitude)
    made, chunks = torch.empty_like(images), rows // CHUNK
    for chunk in set(chunks.tolist()):
        here = (chunks == chunk).to(images.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + chunk)
            made[here] = draw(images[here])
    return made


def mixed(
    images: Float[Tensor, "m 3 h w"], labels: Float[Tensor, "m k"], alpha: float, seed: int, *, cut: bool
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b k"]]:
    """Each image mixed with the one before it: mixup, or CutMix where ``cut``; the first image is only mixed in.

    Mixup (Zhang et al. 2017, arXiv:1710.09412) blends whole images with a share drawn from Beta(alpha, alpha), CutMix
    (Yun et al. 2019, arXiv:1905.04899) pastes a rectangle of that area; labels are blended by the same share.
    """
    others, images = images[:-1], images[1:]
    draw = np.random.default_rng(seed)
    share = float(draw.beta(alpha, alpha))
    if cut:
        (h, w), side = images.shape[2:], (1 - share) ** 0.5
        y, x = (int(draw.integers(edge)) for edge in (h, w))
        top, bottom = max(0, round(y - h * side / 2)), min(h, round(y + h * side / 2))
        left, right = max(0, round(x - w * side / 2)), min(w, round(x + w * side / 2))
        images = images.clone()
        images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (h * w)
    else:
        images = share * images + (1 - share) * others
    return images, share * labels[1:] + (1 - share) * labels[:-1]
