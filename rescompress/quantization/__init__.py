"""Post-training quantization to INT8: one calibration, then ranges and placement for one runtime's scheme."""

from collections.abc import Iterator
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, fx, nn

from rescompress import backends, data, fakequant, graph, models, progress
from rescompress.context import Context
from rescompress.edits import edits
from rescompress.errors import InputRefused
from rescompress.knobs import Choice, Folder, Named, checked
from rescompress.placement import place
from rescompress.quantization.calibration import Histogram, Statistics, calibrate, gather
from rescompress.quantization.ranges import set_ranges

__all__ = ["Histogram", "Statistics", "calibrate", "place", "quantize"]

OBSERVERS = Folder("rescompress.quantization.observers", "ranges_of")
FEWEST_IMAGES = 16
SAMPLE = 32
"""Images on which the adaptive observer judges the layers' outputs."""


@checked
def quantize(
    model: nn.Module,
    ctx: Context,
    *,
    precision: Literal["int8"] = "int8",
    runtime: Annotated[str, Named("rescompress.backends")] = "onnxruntime",
    observer: Annotated[Choice, OBSERVERS] = "percentile",
    calibration_images: Annotated[int, Field(ge=FEWEST_IMAGES)] = 512,
    batch: Annotated[int, Field(ge=1)] = 32,
) -> nn.Module:
    """Quantize weights and activations to INT8 after training (Jacob et al. 2017, arXiv:1712.05877).

    The result is a captured graph with fake-quant modules where the runtime wants them. It runs in eager PyTorch, and
    exporting it gives the same numbers as integers.

    Args:
        model: a float model; it is not edited.
        ctx: where the calibration images come from.
        precision: the integer type of weights and activations.
        runtime: the backend whose scheme (signedness, symmetry, placement) is followed.
        observer: how an activation's range is read off its histogram.
        calibration_images: images of the calibration split that are shown to the network.
        batch: images per calibration step; it doesn't change the result.

    Raises:
        InputRefused: the model has BatchNorms that were not folded, or too few or broken images.
        RecipeError: there are no images.
    """
    spec = models.spec_of(model)
    images = _images(ctx, model, calibration_images, batch)
    if fakequant.sites_of(model):
        raise InputRefused("The model is quantized already.", "Start from the float model.")
    traced = graph.capture(graph.clone(model).eval().cpu(), spec.input_shape)
    if any(map(_folds, traced.graph.nodes)):
        raise InputRefused("The model still has BatchNorms behind convolutions.", "Run fuse before quantize.")
    sites = place(traced, backends.get(runtime).SCHEME)
    watched = {site.quantizer for site in sites if not site.is_weight}
    histograms = gather(traced, images, watched).histograms
    traced.meta["edits"] = edits(model)
    fakequant.insert(traced, sites)
    sample = _images(ctx, model, SAMPLE, batch)
    set_ranges(traced, histograms, OBSERVERS.bind(observer), sample)
    return models.describe(traced, spec)


def _folds(node: fx.Node) -> bool:
    """Whether a node is a BatchNorm that fuse would fold; one before a convolution stays, and stays in float."""
    source = node.args[0] if graph.op_of(node) == "batch_norm" else None
    return isinstance(source, fx.Node) and graph.op_of(source) == "conv" and len(source.users) == 1


def _images(ctx: Context, model: nn.Module, count: int, batch: int) -> Iterator[Float[Tensor, "_ 3 h w"]]:
    """Calibration images behind a progress bar; whether there are enough is found out at once."""
    split = ctx.images("quantize").calibration
    if len(split) < FEWEST_IMAGES:
        raise InputRefused(
            f"Calibration needs at least {FEWEST_IMAGES} images, but there are {len(split)}.",
            "Add images to the calibration split.",
        )
    count = min(count, len(split))
    steps = data.batches(split, models.spec_of(model).preprocessing, batch, count)
    return (images for images, _ in progress.track(steps, "calibrate", -(-count // batch)))
