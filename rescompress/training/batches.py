"""From a train split to augmented batches; every batch is a function of seed, epoch and step alone.

So training can go on at any step, and processes that share a batch see what one process alone would see.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from rescompress import data, processes, progress
from rescompress.context import Context
from rescompress.data import InMemory, Split
from rescompress.errors import RecipeError, RescompressError, WorkerCrashed
from rescompress.spec import Preprocessing
from rescompress.training.augment import mixed, randaugment, shifted
from rescompress.training.schedule import Schedule

HELD_BYTES = 4 * 2**30
"""Decoded images of so many bytes at most are held in memory; more are decoded in each epoch."""
HELD_SHARE = 0.25
"""Of an accelerator's free memory that decoded images may take."""


@dataclass(frozen=True)
class Batch:
    """What one process sees of one step.

    Attributes:
        images: normalized, on the device where the model is.
        labels: class indices, or soft targets ``[b, k]`` where images are mixed.
        indices: places of the images in the train split.
        step: which of all steps this is, from 0.
        steps: of the whole training.
        share: of the step's images that are here, times the number of processes; 1 where the parts are equal.
    """

    images: Float[Tensor, "b 3 h w"]
    labels: Int[Tensor, " b"] | Float[Tensor, "b k"]
    indices: Int[Tensor, " b"]
    step: int
    steps: int
    share: float = 1.0

    def parts(self, count: int) -> Iterator["Batch"]:
        """The batch in so many smaller ones, whose shares say how much of it each is."""
        whole = len(self.images)
        pieces = (tensor.tensor_split(count) for tensor in (self.images, self.labels, self.indices))
        for images, labels, indices in zip(*pieces, strict=True):
            yield Batch(images, labels, indices, self.step, self.steps, self.share * len(images) / whole)


class Feed:
    """The batches of a training, from any step on.

    Args:
        ctx: where images, seed and device come from.
        preprocessing: how images are normalized.
        schedule: how large batches are, and what happens to images.
        purpose: names the stage, and gives it draws of its own.

    Raises:
        RecipeError: more processes share a batch than it can be dealt to.
    """

    def __init__(self, ctx: Context, preprocessing: Preprocessing, schedule: Schedule, purpose: str) -> None:
        self._ctx, self._preprocessing, self._schedule, self._purpose = ctx, preprocessing, schedule, purpose
        opened = ctx.images(purpose)
        self._count, self._classes = len(opened.train), len(opened.classes)
        self._source = opened.train
        self.epoch_steps = len(batches(torch.arange(self._count), schedule.batch))
        self.steps = schedule.epochs * self.epoch_steps
        if processes.size() > least(schedule.batch):
            raise RecipeError(
                f"{processes.size()} processes can't share a batch of {schedule.batch} images.",
                f"Raise schedule.batch to {4 * processes.size()}, or start fewer processes.",
            )

    def since(self, step: int) -> Iterator[Batch]:
        """Every batch from this step on; the next one is read while this one is used.

        Raises:
            WorkerCrashed: images can't be read any more.
        """
        with ThreadPoolExecutor(1, "reader") as reader:
            coming = reader.submit(self._read, step) if step < self.steps else None
            for now in range(step, self.steps):
                assert coming is not None
                try:
                    pixels, labels, rows, chosen = coming.result()
                except RescompressError:
                    raise
                except Exception as error:  # whatever a file system or a decoder raises
                    raise WorkerCrashed(
                        f"Images of step {now} of {self._purpose} can't be read: {type(error).__name__}: {error}.",
                        "Mend the images and start again; what was trained so far is kept where the run has a folder.",
                    ) from error
                coming = reader.submit(self._read, now + 1) if now + 1 < self.steps else None
                yield self._finish(now, pixels, labels, rows, chosen)

    @cached_property
    def _held(self) -> Split:
        return held(self._source, self._preprocessing, self._ctx.device)

    def _order(self, epoch: int) -> list[Int[Tensor, " b"]]:
        """The epoch's shuffled batches; the last epoch that was asked for is kept."""
        if getattr(self, "_epoch", None) != epoch:
            shuffled = torch.randperm(self._count, generator=self._ctx.generator(f"{self._purpose}/epoch {epoch}"))
            self._epoch, self._batches = epoch, batches(shuffled, self._schedule.batch)
        return self._batches

    def _read(self, step: int) -> tuple[UInt8[Tensor, "m 3 h w"], Tensor, Int[Tensor, " m"], Int[Tensor, " n"]]:
        """This process's rows of a batch as bytes, and with them the row before where images are mixed."""
        epoch, place = divmod(step, self.epoch_steps)
        chosen = self._order(epoch)[place]
        mine = processes.share(len(chosen))
        first = mine.start - 1 if self._mixes(step) else mine.start
        rows = torch.arange(first, mine.stop) % len(chosen)
        return self._held.read(chosen[rows].tolist()), self._held.labels.cpu()[chosen[rows]], rows, chosen

    def _finish(
        self,
        step: int,
        pixels: UInt8[Tensor, "m 3 h w"],
        labels: Tensor,
        rows: Int[Tensor, " m"],
        chosen: Int[Tensor, " n"],
    ) -> Batch:
        """Augment, normalize and mix on the device."""
        schedule, device = self._schedule, self._ctx.device
        generator = self._ctx.generator(f"{self._purpose}/step {step}")
        pixels = pixels.to(device, non_blocking=True)
        pixels = shifted(pixels, schedule.augment, rows, len(chosen), generator)
        seed = int(torch.randint(2**31, (), generator=generator))
        if schedule.randaugment:
            pixels = randaugment(pixels, schedule.randaugment, rows, seed)
        images, labels = data.normalize(pixels, self._preprocessing), labels.to(device)
        if self._mixes(step):
            cut = self._mixes(step) == "cutmix"
            soft = F.one_hot(labels, self._classes).float()
            images, labels = mixed(images, soft, schedule.cutmix if cut else schedule.mixup, seed, cut=cut)
        indices = chosen[rows[-len(images) :]]
        share = len(images) * processes.size() / len(chosen)
        return Batch(images, labels, indices, step, self.steps, share)

    def _mixes(self, step: int) -> str:
        """How the step's images are mixed; empty where they aren't."""
        kinds = [kind for kind in ("mixup", "cutmix") if getattr(self._schedule, kind)]
        return kinds[step % len(kinds)] if kinds else ""


def batches(order: Int[Tensor, " n"], size: int) -> list[Int[Tensor, " _"]]:
    """Batches of so many; a rest that is too small for BatchNorm, and for several processes, joins the one before."""
    made = list(torch.split(order, size))
    if len(made) > 1 and len(made[-1]) < least(size):
        made[-2:] = [torch.cat(made[-2:])]
    return made


def least(size: int) -> int:
    """Images that the smallest batch of an epoch has at least: a quarter of the others, and 2."""
    return max(2, math.ceil(size / 4))


def held(split: Split, preprocessing: Preprocessing, device: str) -> Split:
    """The split with its images decoded once and held as bytes on the device, where they fit; else as it is."""
    size = len(split) * 3 * preprocessing.crop**2
    if device != "cpu":
        free, _ = torch.cuda.mem_get_info(device)
        room = int(HELD_SHARE * free)
    else:
        own = getattr(split, "images", None)
        room = 0 if isinstance(own, Tensor) and own.shape[-1] == preprocessing.crop else HELD_BYTES
    if size > room:
        return split
    pixels = torch.empty((len(split), 3, preprocessing.crop, preprocessing.crop), dtype=torch.uint8, device=device)
    for start in progress.track(range(0, len(split), 512), "decode images"):
        stop = min(start + 512, len(split))
        pixels[start:stop] = split.read(range(start, stop)).to(device)
    return InMemory(pixels, split.labels)
