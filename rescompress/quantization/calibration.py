"""Calibration: images pass once, and every value that any runtime's scheme may ask for is watched at the same time."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, fx, nn

from rescompress import data, graph, models, prepacked, progress
from rescompress.context import Context
from rescompress.errors import InputRefused
from rescompress.knobs import checked
from rescompress.quantization import checks
from rescompress.quantization.histogram import BINS, Histogram
from rescompress.quantization.statistics import Origin, Statistics, load, origin_of
from rescompress.spec import Preprocessing

__all__ = ["BINS", "Histogram", "Statistics", "calibrate", "candidates", "collect", "gather"]

SAVE_EVERY_S = 10.0
"""An interrupted calibration loses no more than this."""
THREADS = 8
"""At most: each holds the values of its own images."""
PIXELS, MOST = 2 * 224 * 224, 32
"""Of a step's images together, and their number: larger steps take memory and no less time."""


@checked
def calibrate(
    model: nn.Module,
    ctx: Context,
    file: Path | str | None = None,
    *,
    calibration_images: Annotated[int, Field(ge=checks.FEWEST)] = 512,
    batch: Annotated[int | None, Field(ge=1)] = None,
) -> Statistics:
    """Show images to a float network once, and keep what every runtime's INT8 scheme and every observer may ask for.

    Args:
        model: a float model with its BatchNorms folded; it is not edited.
        ctx: where the calibration images come from.
        file: what is kept, as ``.safetensors``. A calibration that was interrupted goes on from it, and so does one
            that is to see more of the same images; the bytes are those of a calibration that was never interrupted.
        calibration_images: images of the calibration split that are shown to the network.
        batch: images per step, which change the result by rounding only; None takes 2 of 224 pixels, 32 of 32 pixels.

    Raises:
        InputRefused: the model has BatchNorms that were not folded or is quantized already; there are too few or
            broken images; or the file belongs to another network or other images.
        RecipeError: there are no images.
    """
    images = ctx.images("calibrate")
    spec = models.spec_of(model)
    on_cpu = all(tensor.device.type == "cpu" for tensor in model.state_dict().values())
    traced = graph.capture(model if on_cpu else graph.clone(model).cpu(), spec.input_shape)
    models.describe(traced, spec)
    checks.network(traced)
    checks.matching(ctx.reference, images, spec.preprocessing)
    return collect(traced, images, file, calibration_images=calibration_images, batch=batch)


def candidates(traced: fx.GraphModule) -> tuple[str, ...]:
    """The values that some scheme may make INT8, in order of execution.

    These are all activations but those that a ReLU alone reads: every runtime runs that ReLU in the layer before it, so
    that such a value never leaves an integer kernel.

    Args:
        traced: a captured graph.
    """
    return tuple(name for name, node in graph.values(traced).items() if _is_activation(node) and not _only_relu(node))


def gather(
    traced: fx.GraphModule,
    batches: Iterable[Float[Tensor, "_ 3 h w"]],
    watched: Collection[str],
    found: Statistics | None = None,
    keep: Callable[[Statistics], None] = lambda made: None,
) -> Statistics:
    """Statistics of each watched value; memory doesn't grow with the number of images.

    Each batch has a thread, so that layers don't wait for the values of others to be counted. Counts are exact, so it
    doesn't matter which is counted first.

    Args:
        traced: a captured graph.
        batches: normalized images.
        watched: stable names of values.
        found: statistics that go on from where they are, in place.
        keep: is called when some batches have been counted whole, and nothing of others.

    Raises:
        InputRefused: a value is NaN or infinite; the layer is named.
    """
    made = Statistics() if found is None else found
    steps, locks = iter(batches), {name: Lock() for name in watched}
    with _threads() as (pool, at_once):
        group = list(islice(steps, at_once))
        instead = prepacked.convolutions(traced, len(group[0])) if group else {}
        while group:
            shown, count = [], made.images
            for images in group:
                shown.append(pool.submit(_show, traced, images, count, instead, made, locks))
                count += len(images)
            group = list(islice(steps, at_once))
            for each in shown:
                each.result()
            made.images = count
            keep(made)
    made.wanted = max(made.wanted, made.images)
    return made


def collect(
    traced: fx.GraphModule,
    images: data.Data,
    file: Path | str | None = None,
    *,
    calibration_images: int,
    batch: int | None = None,
    watched: Collection[str] | None = None,
) -> Statistics:
    """Statistics of a captured network on the calibration split, behind a progress bar.

    Args:
        traced: a captured graph that carries its spec.
        images: labelled images.
        file: where they are kept, and gone on from.
        calibration_images: how many images are shown, if there are so many.
        batch: images per step; None lets their size decide.
        watched: stable names of values; None watches all candidates.

    Raises:
        InputRefused: as for ``calibrate``.
    """
    split, preprocessing = images.calibration, models.spec_of(traced).preprocessing
    count = checks.images(split, calibration_images)
    batch = batch or step_of(preprocessing)
    watched = candidates(traced) if watched is None else watched
    origin = origin_of(traced, images) if file is not None else Origin()
    made = _begun(Path(file), origin, count, watched) if file is not None else Statistics()
    made.wanted, made.origin = count, origin
    saved = time.monotonic()

    def keep(made: Statistics) -> None:
        nonlocal saved
        if file is not None and (time.monotonic() - saved >= SAVE_EVERY_S or made.images == count):
            made.save(file)
            saved = time.monotonic()

    return gather(traced, _steps(split, preprocessing, batch, made.images, count), watched, made, keep)


def step_of(preprocessing: Preprocessing, most: int = MOST) -> int:
    """How many images are shown at a time: as many as are small together."""
    return max(1, min(most, PIXELS // preprocessing.crop**2))


@contextmanager
def _threads() -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """As many threads as PyTorch would take for a layer, each of which takes layers of its own by itself."""
    before = torch.get_num_threads()
    count = min(before, THREADS)
    try:
        with ThreadPoolExecutor(count, "calibrate", torch.set_num_threads, (1,)) as pool:
            yield pool, count
    finally:
        torch.set_num_threads(before)


def _show(
    traced: fx.GraphModule,
    images: Float[Tensor, "_ 3 h w"],
    first: int,
    instead: Mapping[fx.Node, prepacked.Convolution],
    made: Statistics,
    locks: Mapping[str, Lock],
) -> None:
    """Count what some images are like in each value that has a lock."""

    def seen(node: fx.Node, value: Any) -> None:
        name = node.meta.get("value_name", "")
        if name not in locks:
            return
        try:
            with locks[name]:
                made.update(name, value, first)
        except ValueError as error:
            fact = f"The output of {name} is {error}."
            raise InputRefused(fact, "Check the images and the checkpoint's weights.") from None

    with torch.no_grad():
        graph.watch(traced, images, seen, instead)


def _begun(file: Path, origin: Origin, count: int, watched: Collection[str]) -> Statistics:
    """What an earlier calibration of the same has left in the file."""
    if not file.exists():
        return Statistics()
    made = load(file, origin, partly=True)
    if made.images > count:
        raise InputRefused(
            f"{file} holds {made.images} images already, more than the {count} that are wanted.",
            "Use it as it is, or calibrate into another file.",
        )
    if made.histograms.keys() != set(watched):
        raise InputRefused(f"{file} watched other values of the network.", "Calibrate into another file.")
    return made


def _steps(
    split: data.Split, preprocessing: Any, batch: int, begun: int, count: int
) -> Iterator[Float[Tensor, "_ 3 h w"]]:
    steps = data.batches(split, preprocessing, batch, rows=range(begun, count))
    total, done = -(-count // batch), begun // batch
    return (images for images, _ in progress.track(steps, "calibrate", total, done))


def _is_activation(node: fx.Node) -> bool:
    value = node.meta.get("val")
    made = node.op in ("placeholder", "call_function")
    return made and isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2


def _only_relu(node: fx.Node) -> bool:
    return len(node.users) == 1 and graph.op_of(next(iter(node.users))) == "relu"
