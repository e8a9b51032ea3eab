"""torchvision's ResNets, ResNeXts and wide ResNets, by torchvision's own names (He et al. 2015, arXiv:1512.03385)."""

import contextlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from rescompress import progress
from rescompress.artifact import sha256_of
from rescompress.catalog import suggest
from rescompress.errors import InputRefused
from rescompress.models import Guess, Shapes, State, Stock
from rescompress.models._layout import classes_of, count_blocks
from rescompress.models._torchvision_import import import_torchvision
from rescompress.spec import ModelSpec, Preprocessing

DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
    "resnext50_32x4d": (3, 4, 6, 3),
    "resnext101_32x8d": (3, 4, 23, 3),
    "resnext101_64x4d": (3, 4, 23, 3),
    "wide_resnet50_2": (3, 4, 6, 3),
    "wide_resnet101_2": (3, 4, 23, 3),
}
"""Blocks of each stage."""
ARCHITECTURES = dict.fromkeys(DEPTHS, Stock())
SHA256 = {
    "resnet18-f37072fd.pth": "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    "resnet50-0676ba61.pth": "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    "resnet50-11ad3fa6.pth": "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
}
"""Full hashes that are known; torchvision itself states the first eight digits, in each file's name."""


def build(
    architecture: str, classes: int, *, replace_stride_with_dilation: tuple[bool, bool, bool] = (False, False, False)
) -> nn.Module:
    """The stock network with random weights.

    Args:
        architecture: one of ``ARCHITECTURES``.
        classes: outputs of the classifier.
        replace_stride_with_dilation: which of the last three stages keep their resolution and dilate instead.
    """
    arguments = {"num_classes": classes, "replace_stride_with_dilation": list(replace_stride_with_dilation)}
    return cast(nn.Module, import_torchvision().models.get_model(architecture, weights=None, **arguments))


def guess(shapes: Shapes) -> Iterator[Guess]:
    """By the blocks per stage."""
    blocks, classes = count_blocks(shapes), classes_of(shapes, "fc")
    if classes:
        yield from ((name, classes, {}) for name, depths in DEPTHS.items() if depths == blocks)


def adopt(state: State) -> dict[str, Tensor]:
    """Names in public checkpoints are torchvision's own."""
    return dict(state)


def fetch(name: str) -> tuple[Path, ModelSpec]:
    """Weights that torchvision publishes, downloaded by its own code and checked in full.

    Args:
        name: architecture and weights, as ``resnet50/IMAGENET1K_V2``.

    Raises:
        InputRefused: there are no such weights, the network doesn't answer, or the file has another hash.
    """
    architecture, _, wanted = name.partition("/")
    if architecture not in ARCHITECTURES:
        raise InputRefused(f"torchvision has no '{architecture}'.", suggest(architecture, tuple(ARCHITECTURES)))
    offered = import_torchvision().models.get_model_weights(architecture)
    if wanted not in offered.__members__:
        raise InputRefused(f"{architecture} has no weights '{wanted}'.", suggest(wanted, tuple(offered.__members__)))
    weights = offered[wanted]
    file = _download(weights)
    said = weights.transforms()
    prepared = Preprocessing(said.resize_size[0], said.crop_size[0], tuple(said.mean), tuple(said.std))
    return file, ModelSpec("torchvision", architecture, len(weights.meta["categories"]), prepared)


def _download(weights: Any) -> Path:
    """The file in PyTorch's own cache; torchvision checks eight digits of its hash, and only on the way in."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        # It tells of the download on standard output, where only results belong.
        with contextlib.redirect_stdout(io.StringIO()):
            if not file.is_file():
                weights.get_state_dict(progress=not progress.quiet, check_hash=True, weights_only=True)
    except (EOFError, pickle.UnpicklingError):
        raise InputRefused(f"{weights.url} holds no plain state dict.", "Take another model.") from None
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).strip().partition("\n")[0].rstrip(".") or "no answer"
        raise InputRefused(
            f"{weights.url} can't be had: {first[:200]}.",
            f"Check the network, or put the file at {file}.",
        ) from None
    found = sha256_of(file)
    known = SHA256.get(file.name, file.stem.rpartition("-")[2])
    if not found.startswith(known):
        raise InputRefused(f"{file} has the SHA-256 {found}, not {known}.", "Delete it and download it again.")
    return file
