"""What an artifact and its model answer to the same images, all at once, a few and alone."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rescompress import data, fakequant, metrics, models, progress
from rescompress.agreement import Proportion
from rescompress.artifact import Manifest, open_artifact
from rescompress.data import Data
from rescompress.errors import InputRefused
from rescompress.verification.inputs import SEED, Shown, shown
from rescompress.worker import Worker

Array = NDArray[np.float32]
NOISE_IMAGES, NOISE_MAPS = 64, 4
"""Images of noise where there is no data; feature maps are a thousand times larger than logits."""
FEW = (1, 3)
"""Numbers of images that an artifact is given at once, beside a whole batch."""
MILLIONTH = 1e-6


@dataclass(frozen=True)
class Answers:
    """Answers of both sides, one row an image.

    Attributes:
        ours: of the model in eager PyTorch; probabilities where the artifact gives those.
        theirs: of the artifact.
        labels: class of each image; None where there are none.
        few: for some numbers of images what the artifact should give to so many alone, and what it gives.
        sizes: all numbers of images that it was given at once.
        self_noise_db: SQNR of the model's answers when its values move by a millionth.
        self_agreement: images on which it then names the same class; 0 of 0 where it names none.
        own_ranges: whether the images of a batch share ranges that are found at run time, so that neighbours change an
            answer.
        first: the first batch.
    """

    ours: Array
    theirs: Array
    labels: NDArray[np.int64] | None
    few: dict[int, tuple[Array, Array]]
    sizes: tuple[int, ...]
    self_noise_db: float
    self_agreement: Proportion
    own_ranges: bool
    first: Shown


def gather(worker: Worker, manifest: Manifest, model: nn.Module, images: Data | None, batch: int, name: str) -> Answers:
    """Show both sides the test split, or noise where there is no data.

    Args:
        worker: a process that holds the artifact.
        manifest: the artifact's.
        model: the model that was exported.
        images: labelled images.
        batch: images at once.
        name: of the artifact, for the progress bar.

    Raises:
        InputRefused: the artifact gives another number of answers than the model.
    """
    classifies = manifest.model.output == "logits"
    count = len(images.test) if images else NOISE_IMAGES if classifies else NOISE_MAPS
    ours, theirs, labels = list[Array](), list[Array](), list[NDArray[np.int64]]()
    few = dict[int, Array]()
    for each in progress.track(shown(images, manifest, batch, count), f"verify {name}", -(-count // batch)):
        if not theirs:
            first = each
            few = {size: worker.run(each.taken[:size]) for size in FEW if size < len(each.labels)}
        theirs.append(worker.run(each.taken))
        ours.append(eager(model, each.normalized, manifest))
        _check_size(ours[-1], theirs[-1])
        labels.append(each.labels)
    moved = _stirred(model, first.normalized, manifest)
    shared = any(site.dynamic for site in fakequant.sites_of(model))
    wanted = {size: eager(model, first.normalized[:size], manifest) if shared else theirs[0][:size] for size in few}
    return Answers(
        ours=np.concatenate(ours),
        theirs=np.concatenate(theirs),
        labels=np.concatenate(labels) if images and classifies else None,
        few={size: (wanted[size], few[size]) for size in few},
        sizes=tuple(sorted({*few, *map(len, labels)})),
        self_noise_db=metrics.sqnr_db(ours[0], moved),
        self_agreement=metrics.agreement(ours[0], moved) if classifies else Proportion(0, 0),
        own_ranges=shared,
        first=first,
    )


def _check_size(ours: Array, theirs: Array) -> None:
    if ours.shape != theirs.shape:
        raise InputRefused(
            f"The artifact gives {theirs.shape[1]} numbers an image, the model {ours.shape[1]}.",
            "Compare the artifact with the checkpoint that it was exported from.",
        )


def eager(model: nn.Module, normalized: Tensor, manifest: Manifest) -> Array:
    """What the model answers, in the artifact's terms."""
    answer = models.predict(model, [normalized])
    return (answer.softmax(1) if manifest.gives_probabilities else answer).numpy()


def classes_named(baseline: Path | nn.Module, images: Data, batch: int) -> NDArray[np.int64]:
    """The class that a baseline names for each test image: an artifact in a process of its own, or a model in eager."""
    if isinstance(baseline, nn.Module):
        steps = data.batches(images.test, models.spec_of(baseline).preprocessing, batch)
        return np.concatenate([models.predict(baseline, [normalized]).argmax(1).numpy() for normalized, _ in steps])
    manifest = open_artifact(baseline).manifest
    with Worker(baseline) as worker:
        count = len(images.test)
        tracked = progress.track(shown(images, manifest, batch, count), f"baseline {baseline.name}", -(-count // batch))
        return np.concatenate([worker.run(each.taken).argmax(1) for each in tracked])


def _stirred(model: nn.Module, normalized: Tensor, manifest: Manifest) -> Array:
    """What the model answers when its input, and each value before it is rounded, moves by a millionth.

    Any other order of the same sums moves them so far. The input alone would not do: where it is rounded to integers,
    the millionth is gone at once.
    """
    generator = torch.Generator().manual_seed(SEED)

    def stir(x: Tensor) -> Tensor:
        return x * (1 + MILLIONTH * torch.randn(x.shape, generator=generator).to(x.device))

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, fakequant.FakeQuantize) and not module.site.is_weight:
                stack.callback(module.register_forward_pre_hook(lambda _, given: (stir(given[0]),)).remove)
        return eager(model, stir(normalized), manifest)
