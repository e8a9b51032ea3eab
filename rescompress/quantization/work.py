"""One network on its way to integers: the steps of quantizing, each in place, each saying what the report should."""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, fx, nn

from rescompress import data, fakequant, graph, models, progress
from rescompress.context import Context
from rescompress.data import Data
from rescompress.edits import Edit, edits
from rescompress.quantization import checks, saturation, sensitivity, statistics
from rescompress.quantization.calibration import Statistics, collect, step_of
from rescompress.quantization.channels import Channels, watch_channels
from rescompress.quantization.correction import How, correct
from rescompress.quantization.equalization import absorb, equalize
from rescompress.quantization.grid import Range
from rescompress.quantization.guard import guard, pixel_extremes, sentence
from rescompress.quantization.importance import weighed
from rescompress.quantization.pixels import read_pixels
from rescompress.quantization.qat import Scales, train_quantized
from rescompress.quantization.ranges import Observer, WeightObserver, set_ranges
from rescompress.quantization.remedies import choose
from rescompress.quantization.target import Target
from rescompress.sites import Site
from rescompress.training import Schedule

Remedy = Literal["auto", "on", "off"]
Correction = How | Literal["auto", "off"]
SAMPLE, STEP, MOST = 32, 8, 512
"""Images on which layers are looked at one by one; so many at a time at most; the most, of 32 pixels, held at once."""
FEW = 4
"""Images on which saturating kernels are simulated, which takes long."""
HELD_OUT, LEAST_HELD_OUT = 1024, 256
"""Images that judge which layers go back to float, and the fewest that are worth keeping apart for it."""


class Work:
    """A captured network and what is known of it.

    Args:
        model: a float model; a copy is worked on.
        images: labelled images; None where nothing needs any.
        target: what it is quantized for.

    Attributes:
        traced: the network as it stands.

    Raises:
        InputRefused: the model is quantized already, or has BatchNorms that were not folded.
    """

    def __init__(self, model: nn.Module, images: Data | None, target: Target) -> None:
        self._spec = models.spec_of(model)
        self.traced = graph.capture(graph.clone(model).eval().cpu(), self._spec.input_shape)
        models.describe(self.traced, self._spec)
        checks.network(self.traced)
        self.traced.meta["edits"] = edits(model)
        self._images, self._target, self._model = images, target, model
        for line in target.hindered(self.traced):
            progress.note(f"quantize: {line}")
        self._origin = statistics.origin_of(self.traced, images) if images is not None else statistics.Origin()
        self._found = Statistics()
        self._exact: fx.GraphModule | None = None
        self._fixed: dict[str, Range] = {}

    def shown(self, count: int) -> Iterator[Float[Tensor, "_ 3 h w"]]:
        """The first calibration images, a few at a time; none where there are none."""
        if self._images is None:
            return iter(())
        preprocessing = self._spec.preprocessing
        batches = data.batches(self._images.calibration, preprocessing, step_of(preprocessing, STEP), count)
        return (batch for batch, _ in batches)

    def calibrate(self, file: Path | None, count: int, batch: int | None) -> None:
        """Take the statistics from a file, or from the images.

        Raises:
            InputRefused: the file is of another network or of other images; or images are too few or broken.
        """
        assert self._images is not None
        self._collect = partial(collect, images=self._images, calibration_images=count, batch=batch)
        self._found = self._collect(self.traced) if file is None else statistics.load(file, self._origin)

    def remedy(self, equalization: Remedy, absorption: Remedy) -> None:
        """Give the float network the remedies that its figures call for, or that are asked for; calibrate what changed.

        What is rare decides how far a channel reaches: its extremes are those of all calibration images.
        """
        channels = self._channels()
        needed = choose(self.traced, channels)
        if equalization == "on" or (equalization == "auto" and needed.equalize):
            if needed.equalize:
                progress.note(f"quantize: {needed.reasons['equalize']}")
            if equalize(self.traced, channels):
                self._calibrate_again()
                channels = self._channels()
        if absorption == "on" or (absorption == "auto" and needed.absorb):
            if needed.absorb:
                progress.note(f"quantize: {needed.reasons['absorb']}")
            if absorb(self.traced, channels):
                self._calibrate_again()

    def _calibrate_again(self) -> None:
        progress.note("quantize: calibrated again, for channels are not what they were.")
        self._found = self._collect(self.traced)

    def _channels(self) -> dict[str, Channels]:
        seen = watch_channels(self.traced, self.shown(SAMPLE))
        known = self._found.channels
        return {name: each.reaching(known[name]) if name in known else each for name, each in seen.items()}

    def place(self, observer: Observer, weights: WeightObserver, importance: int, generator: torch.Generator) -> None:
        """Put fake-quants where the runtime wants them, and set their scales.

        Args:
            observer: how an activation's range is read off its histogram.
            weights: what sets the weights' scales.
            importance: images that tell how much the outputs depend on each value, for that to weigh the histograms.
            generator: for what that leaves to chance.
        """
        self._read_pixels()
        self._bare = graph.clone(self.traced)
        sites = self._target.sites(self._bare)
        fakequant.insert(self.traced, sites)
        fixed = self._target.fixed(self._bare, sites) | self._fixed
        histograms = self._found.histograms
        if importance and self._target.static:
            free = {site.quantizer for site in sites} - set(fixed)
            known = {name: histograms[name] for name in free & set(histograms)}
            histograms = weighed(self.traced, known, self.shown(importance), generator)
        set_ranges(self.traced, histograms, observer, self.shown(SAMPLE), weights, fixed)

    def _read_pixels(self) -> None:
        """Let the image be rounded to the levels that its pixels have, if the runtime and the network have it so."""
        if not self._target.rounds_images(self.traced):
            return
        found = read_pixels(self.traced, self._model, self._spec.preprocessing)
        if found is not None:
            value, self._fixed = found[0], dict([found])
            self.traced.meta["edits"] += (Edit(value.rpartition(".")[0], "pixels", {}),)

    def guard(self, *, tell: bool = True) -> None:
        """Keep weights from overflowing 16 bits where the processor adds products in them."""
        if self._target.cpu != "avx2":
            return
        before = graph.clone(self.traced) if tell else self.traced
        channels = {**self._found.channels, graph.INPUT: pixel_extremes(self._spec.preprocessing)}
        layers = guard(self.traced, channels, self._target.cpu)
        sample = list(self.shown(FEW))
        if layers and tell and sample:
            images = torch.cat(sample)[:FEW]
            progress.note(sentence(layers, *(saturation.sqnr_db(each, images) for each in (before, self.traced))))

    def round(
        self, rounding: Callable[..., tuple[str, ...]], images: int, generator: torch.Generator, *, exact: bool
    ) -> None:
        """Decide for each weight whether it goes up or down.

        Args:
            rounding: how.
            images: how many it may look at.
            generator: for what it leaves to chance.
            exact: whether means and deviations are still to be brought where the float network has them.
        """
        for line in rounding(self.traced, self.shown(images), generator):
            progress.note(line)
        self._exact = self._bare if exact else None

    def correct(self, how: Correction) -> None:
        """Mend the means and deviations that rounding shifted, as asked; unasked, where images are enough to tell."""
        if how == "off" or not (self._target.static or self._exact):
            return
        side = self._spec.preprocessing.crop
        images = torch.cat(list(self.shown(max(SAMPLE, min(MOST, MOST * 32**2 // side**2)))))
        if how != "auto" or len(images) >= SAMPLE:
            correct(self.traced, images, "moments" if how == "auto" else how, self._exact)

    def mix(self, most_lost: float | None, seen: int, how: Correction) -> None:
        """Give the fewest layers back to float with which no more points of top-1 are lost than may be, and correct.

        Where correcting alone is not enough, layers are searched for without it: what makes up for one layer's error
        is an error of its own once that layer is float.

        Args:
            most_lost: points of top-1 on held-out images; None corrects only.
            seen: calibration images that the ranges are read off.
            how: what is corrected.
        """
        if most_lost is None:
            self.correct(how)
            return
        assert self._images is not None
        split, seen = self._images.calibration, max(seen, self._found.images)
        apart = len(split) - seen >= LEAST_HELD_OUT
        rows = range(seen, min(len(split), seen + HELD_OUT)) if apart else range(min(len(split), HELD_OUT))
        if not apart:
            progress.note(
                "quantize: calibration's own images judge which layers stay in INT8, for there are no others."
            )

        def held_out() -> Iterator[tuple[Float[Tensor, "_ 3 h w"], Int[Tensor, " _"]]]:
            return data.batches(split, self._spec.preprocessing, SAMPLE, rows=rows)

        def placed(floats: Collection[str]) -> tuple[Site, ...]:
            return self._target.sites(self._bare, floats)

        weights = {name: tensor.detach() for name, tensor in self._bare.named_parameters()}
        before = {name: tensor.clone() for name, tensor in self.traced.state_dict().items()}
        self.correct(how)
        if sensitivity.holds(self.traced, held_out, most_lost, weights):
            return
        self.traced.load_state_dict(before)
        layers, trials = sensitivity.fewest_in_float(self.traced, placed, held_out, most_lost, weights)
        for line in sensitivity.told(trials, layers):
            progress.note(line)
        if layers:
            sensitivity.to_float(self.traced, placed(layers), weights)
        self.correct(how)

    def train(self, ctx: Context, schedule: Schedule, scales: Scales) -> None:
        """Go on training with the rounding in the loop, unless that is off."""
        if scales != "off":
            self.traced = train_quantized(self.traced, ctx, schedule, exact=self._bare, scales=scales)

    def finished(self) -> fx.GraphModule:
        """The quantized model; whatever moved weights after the guard looked at them is looked at once more."""
        self.guard(tell=False)
        fakequant.round_biases(self.traced)
        models.describe(self.traced, self._spec)
        return self.traced
