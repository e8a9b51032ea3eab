"""Quantization to INT8: one calibration, then the placement, ranges and weights that one runtime's scheme wants."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from rescompress import models
from rescompress.context import Context
from rescompress.cpu import Cpu, kernels
from rescompress.data import Data
from rescompress.errors import InputRefused, RecipeError
from rescompress.knobs import Choice, Folder, agreeing, checked
from rescompress.placement import Kind, place
from rescompress.quantization import checks
from rescompress.quantization.calibration import Histogram, Statistics, calibrate
from rescompress.quantization.qat import DEFAULT_QAT, QatSchedule, Scales
from rescompress.quantization.ranges import WeightObserver
from rescompress.quantization.target import Target
from rescompress.quantization.work import Correction, Remedy, Work

__all__ = ["Histogram", "Statistics", "calibrate", "place", "quantize"]

OBSERVERS = Folder("rescompress.quantization.observers", "ranges_of")
ROUNDINGS = Folder("rescompress.quantization.roundings", "round_weights")
DEFAULT = "onnxruntime"
Runtime = Literal["onnxruntime", "openvino", "tensorrt", "coreml", "litert"]


def _agree(filled: Mapping[str, Any]) -> None:
    """Refuse knobs that mean nothing together."""
    static = filled["precision"] == "int8"
    if not static and filled["calibration"] is not None:
        raise RecipeError(f"precision {filled['precision']} has no activations to calibrate.", "Leave calibration out.")
    if not static and filled["qat"] != "off":
        raise RecipeError(f"qat trains INT8, not {filled['precision']}.", "Take precision int8.")
    if not static and filled["weight_bits"] != 8:
        raise RecipeError("weight_bits is for weights beside INT8 activations.", "Take precision w4, or int8.")
    remedies = [name for name in ("equalization", "absorption") if filled[name] == "on"]
    remedies += ["correction"] if filled["correction"] not in ("auto", "off") else []
    if not static and remedies:
        fact = f"{remedies[0]} goes by what images do, which precision {filled['precision']} doesn't look at."
        raise RecipeError(fact, f"Take precision int8, or leave {remedies[0]} out.")
    if filled["qat"] == "off" and filled["schedule"] != DEFAULT_QAT:
        raise RecipeError("schedule is for QAT, which is off.", "Set qat to fixed or learned, or leave schedule out.")


@checked
@agreeing(_agree)
def quantize(
    model: nn.Module,
    ctx: Context,
    *,
    precision: Kind = "int8",
    weight_bits: Literal[4, 8] = 8,
    runtime: Runtime | None = None,
    cpu: Cpu = "auto",
    observer: Annotated[Choice, OBSERVERS] = "mse",
    importance_images: Annotated[int, Field(ge=0)] = 128,
    weights: WeightObserver | None = None,
    calibration: Path | None = None,
    calibration_images: Annotated[int, Field(ge=checks.FEWEST)] = 512,
    calibration_batch: Annotated[int | None, Field(ge=1)] = None,
    equalization: Remedy = "auto",
    absorption: Remedy = "auto",
    correction: Correction = "auto",
    rounding: Annotated[Choice, ROUNDINGS] | None = None,
    pixels: bool = True,
    first: bool = True,
    classifier: bool = True,
    float_layers: tuple[str, ...] = (),
    max_drop: Annotated[float | None, Field(ge=0, le=100)] = None,
    qat: Scales = "off",
    schedule: QatSchedule = DEFAULT_QAT,
) -> nn.Module:
    """Quantize weights and activations to integers (Jacob et al. 2017, arXiv:1712.05877).

    The result is a captured graph with fake-quant modules where the runtime wants them. It runs in eager PyTorch, and
    exporting it gives the same numbers as integers. What a network's own figures call for is done unasked.

    Args:
        model: a float model with its BatchNorms folded; it is not edited.
        ctx: where the calibration images come from.
        precision: INT8 weights and activations; activations by their range at run time; weights alone in 8 or 4 bits.
        weight_bits: of the weights beside INT8 activations.
        runtime: whose scheme (signedness, symmetry, placement) is followed; none means each export target's own, or
            onnxruntime's where nothing is exported.
        cpu: the processor that it is made for; on x86 without VNNI, weights are kept from overflowing 16 bits.
        observer: how an activation's range is read off its histogram.
        importance_images: images whose gradients tell how much the outputs depend on each value, which weighs the
            errors that observer mse adds up; 0 weighs all alike. Other observers don't weigh.
        weights: what sets a weight's scale; none means mse where 4 bits go by images, else minmax.
        calibration: a file that calibrate wrote, of this very network and these images; none calibrates now.
        calibration_images: images of the calibration split that are shown to the network.
        calibration_batch: images per calibration step; none takes what memory likes. It changes rounding only.
        equalization: scale channels so that those of one value reach equally far; auto does where layers are ill.
        absorption: move constant parts of channels past their ReLU; auto does where there are any.
        correction: mend the means of the layers (empirical, analytic), or means and deviations (moments); auto does the
            last where there are 32 images: it brought every trained network it was measured on closer to its floats.
        rounding: how weights are rounded; none means gptq where there are images to solve it by, else nearest. It is
            nearest for INT8 that QAT trains, and for weights alone in 8 bits.
        pixels: round images to the 256 levels of their pixels, which loses nothing, where the runtime shifts and scales
            them at hardly any cost.
        first: quantize the first layer.
        classifier: quantize the layer that makes the logits.
        float_layers: names of layers, adds and pools that stay in float.
        max_drop: most points of top-1 that may be lost on held-out images; the fewest layers go back to float for it.
        qat: go on training with the rounding in the loop, scales fixed or learned too (LSQ).
        schedule: how long and how hard QAT trains.

    Raises:
        InputRefused: the model has BatchNorms that were not folded, or too few or broken images; or it gives back maps,
            and a drop of top-1 is limited.
        RecipeError: there are no images, or knobs contradict each other.
    """
    target = Target(precision, weight_bits, runtime or DEFAULT, kernels(cpu), first, classifier, float_layers, pixels)
    rounding = rounding or _rounding(target, ctx, qat)
    work = Work(model, _images(ctx, model, target, rounding, max_drop, calibration_images), target)
    if target.static:
        work.calibrate(calibration, calibration_images, calibration_batch)
        work.remedy(equalization, absorption)
    weighed = min(importance_images, calibration_images) if OBSERVERS.module(observer).WEIGHED else 0
    work.place(OBSERVERS.bind(observer), weights or _weights(target, rounding), weighed, ctx.generator("importance"))
    work.guard()
    exact = ROUNDINGS.module(rounding).EXACT
    work.round(ROUNDINGS.bind(rounding), calibration_images, ctx.generator("rounding"), exact=exact)
    work.mix(max_drop, calibration_images, correction)
    work.train(ctx, schedule, qat)
    return work.finished()


def _rounding(target: Target, ctx: Context, qat: Scales) -> Choice:
    """How weights are rounded where nobody says it."""
    solved = target.narrow or (target.static and qat == "off")
    return "gptq" if solved and ctx.data is not None else "nearest"


def _weights(target: Target, rounding: Choice) -> WeightObserver:
    """What sets the weights' scales: what 4 bits lose at large weights, others make up for where they are solved."""
    return "mse" if target.narrow and ROUNDINGS.module(rounding).SHOWN else "minmax"


def _images(
    ctx: Context, model: nn.Module, target: Target, rounding: Choice, max_drop: float | None, count: int
) -> Data | None:
    """The labelled images, checked; None where there are none and none are needed."""
    spec = models.spec_of(model)
    if max_drop is not None and spec.output != "logits":
        raise InputRefused("max_drop goes by top-1, and this model gives back maps.", "Leave max_drop out.")
    if not (target.static or ROUNDINGS.module(rounding).SHOWN or max_drop is not None):
        return ctx.data
    images = ctx.images("quantize")
    checks.images(images.calibration, count, tell=not target.static)  # calibrating tells it by itself
    checks.matching(ctx.reference, images, spec.preprocessing)
    return images
