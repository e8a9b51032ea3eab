"""Bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2), and re-estimation of mean and variance.

Rounding shifts what a layer puts out on average; the next layers see the shift in every image. All corrections end up
in biases, weights and weight scales, so that the runtime does nothing more than before.
"""

from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, fx

from rescompress import fakequant, graph, progress
from rescompress.quantization.channels import Channels, channels_of, watch_channels
from rescompress.quantization.streams import LAYERS, own_parameter, readers

How = Literal["empirical", "analytic", "moments"]
LARGEST_GAIN = 2.0
"""A deviation that rounding changed by more than this is noise, not a scale to be mended."""


@torch.no_grad()
def correct(
    traced: fx.GraphModule,
    images: Float[Tensor, "n 3 h w"],
    how: How = "empirical",
    exact: fx.GraphModule | None = None,
) -> int:
    """Let each layer of a quantized graph put out, per channel, what the float network does on average, in place.

    ``empirical``: ``b' = b + E[y] - E[y_q]``, layer after layer, each with the corrected ones before it. ``analytic``:
    ``b' = b - (Q(W) - W) E[x]``, summed over the kernel: the share of the weights' rounding alone, as if the image had
    no border. ``moments``: ``y_q' = g y_q + E[y] - g E[y_q]`` with ``g = σ(y) / σ(y_q)``, what estimating a BatchNorm's
    statistics again comes to once it is folded in; the weights and their scales grow by g together, so the integers
    stay. The layer that makes the logits keeps its deviation, and so do weights with one scale for all rows.

    All images are held at once, as large as the network's widest values need.

    Args:
        traced: a quantized graph whose scales are set.
        images: normalized calibration images.
        how: which of the three.
        exact: the float network; None means the quantized one with its fake-quants passed by, which is the same as long
            as nobody wrote rounded weights into it.

    Returns:
        How many layers were corrected.
    """
    target = watch_channels(exact or traced, [images])
    layers = {node for node in traced.graph.nodes if _editable(traced, node, target)}
    if how == "analytic":
        for node in layers:
            _undo_weight_error(traced, node, target[graph.name_of(_source(node))])
    else:
        _Correcting(traced, target, layers, how == "moments").run(images)
    progress.note(f"correct: {_SAID[how]} of {len(layers)} layers moved to where the float network has them.")
    return len(layers)


_SAID = {
    "empirical": "the means",
    "analytic": "the means, as far as rounded weights shift them,",
    "moments": "the means and deviations",
}


class _Correcting(fx.Interpreter):
    """Runs the quantized graph once; each layer is corrected as soon as its output is known."""

    def __init__(
        self, traced: fx.GraphModule, target: dict[str, Channels], layers: set[fx.Node], moments: bool
    ) -> None:
        super().__init__(traced)
        self._traced, self._target, self._layers, self._moments = traced, target, layers, moments

    def run_node(self, n: fx.Node) -> Any:
        y = super().run_node(n)
        if n not in self._layers:
            return y
        wanted, seen = self._target[graph.name_of(n)], channels_of(y)
        gain = torch.ones_like(seen.mean)
        if self._moments and y.dim() == 4:
            gain = _stretch(self._traced, n, wanted, seen)
        bias = own_parameter(self._traced, n.args[2])
        assert bias is not None
        shift = wanted.mean - gain * seen.mean
        bias.data.copy_(bias.double() * gain + shift)
        shape = (-1, *[1] * (y.dim() - 2))
        return y * gain.view(shape).to(y) + shift.view(shape).to(y)


def _stretch(traced: fx.GraphModule, node: fx.Node, wanted: Channels, seen: Channels) -> Float[Tensor, " c"]:
    """Multiply a layer's rows and their scales by the quotient of the deviations; give the quotient."""
    quantizer = fakequant.quantizer_behind(traced, node.args[1])
    weight = own_parameter(traced, node.args[1])
    gain = wanted.deviation / seen.deviation
    usable = (wanted.deviation > 0) & (seen.deviation > 0)
    if quantizer is None or quantizer.site.channels is None or weight is None or readers(traced, node.args[1]) > 1:
        return torch.ones_like(gain)
    gain = torch.where(usable, gain.clamp(1 / LARGEST_GAIN, LARGEST_GAIN), torch.ones_like(gain)).float()
    weight.data.mul_(gain.view(-1, *[1] * (weight.dim() - 1)))
    quantizer.scale.mul_(gain)
    return gain.double()


def _undo_weight_error(traced: fx.GraphModule, node: fx.Node, source: Channels) -> None:
    quantizer = fakequant.quantizer_behind(traced, node.args[1])
    weight, bias = own_parameter(traced, node.args[1]), own_parameter(traced, node.args[2])
    if quantizer is None or weight is None or bias is None:
        return
    error = (quantizer(weight) - weight).double().reshape(*weight.shape[:2], -1).sum(2)
    groups = cast(int, node.args[6]) if graph.op_of(node) == "conv" and len(node.args) > 6 else 1
    mean = source.mean.view(groups, -1).repeat_interleave(len(weight) // groups, 0)
    bias.data.sub_((error * mean).sum(1).to(bias))


def _editable(traced: fx.GraphModule, node: fx.Node, target: dict[str, Channels]) -> bool:
    """Whether a layer has a bias of its own that its output's mean can be put into, and rounds anything at all."""
    if graph.op_of(node) not in LAYERS or len(node.args) < 3 or own_parameter(traced, node.args[2]) is None:
        return False
    rounds = any(fakequant.quantizer_behind(traced, part) is not None for part in node.args[:2])
    known = graph.name_of(node) in target and graph.name_of(_source(node)) in target
    return rounds and known and readers(traced, node.args[2]) == 1


def _source(node: fx.Node) -> fx.Node:
    """The value that a layer reads, before it was rounded."""
    source = cast(fx.Node, node.args[0])
    return cast(fx.Node, source.args[0]) if source.op == "call_module" else source
