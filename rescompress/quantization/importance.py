"""How much the outputs depend on values of each size: what rounding or clipping those costs in the end.

By the squared gradients of the outputs, the diagonal of the Hessian as BRECQ takes it (Li et al. 2021,
arXiv:2102.05426, sec. 3.3): large values of channels that hardly matter are clipped for a finer grid of all others.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx

from rescompress import fakequant, graph, progress
from rescompress.fakequant import quantizer_behind
from rescompress.quantization.histogram import BINS, Histogram

STEP = 8
"""Images at a time."""
FEWEST = 200
"""Values that a bin's mean is made of at least: its own, or those of bins around it as well."""


def weighed(
    traced: fx.GraphModule,
    histograms: Mapping[str, Histogram],
    batches: Iterable[Float[Tensor, "_ 3 h w"]],
    generator: torch.Generator,
) -> dict[str, Histogram]:
    """Histograms whose counts are weighed by how much the outputs depend on a value of that size.

    The weight is the mean of ``(∂ vᵀ y / ∂ x)²`` over values x of a bin, with v drawn from the standard normal for each
    image: in expectation, the square of all outputs' gradients. Where the outputs are logits, v has mean 0, because
    what all logits share doesn't change an answer.

    Args:
        traced: a captured graph with fake-quants; their values pass as they are.
        histograms: of activations, by the name of their quantizer.
        batches: normalized images; without any, nothing is weighed.
        generator: draws v.

    Returns:
        A histogram for each of those given, with counts that needn't be whole.
    """
    seen = {name: torch.zeros(2, BINS, dtype=torch.float64) for name in histograms}
    with torch.enable_grad(), fakequant.passing(traced):
        steps = [images for batch in batches for images in torch.split(batch, STEP)]
        for images in progress.track(steps, "importance of values"):
            for name, x, slope in _slopes(traced, images, seen, generator):
                seen[name] += _sums(histograms[name], x, slope)
    return {name: histogram.weighed(_means(*seen[name])) for name, histogram in histograms.items()}


def _slopes(
    traced: fx.GraphModule,
    images: Float[Tensor, "n 3 h w"],
    names: Collection[str],
    generator: torch.Generator,
) -> Iterable[tuple[str, Tensor, Tensor]]:
    """The name, values and gradients of each value that is asked for."""
    values = list[tuple[str, Tensor]]()

    def keep(node: fx.Node, x: Any) -> None:
        quantizer = quantizer_behind(traced, node)
        if quantizer is not None and quantizer.site.quantizer in names:
            values.append((quantizer.site.quantizer, x))

    outputs = graph.watch(traced, images.clone().requires_grad_(), keep)
    outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
    drawn = [torch.randn(y.shape, generator=generator) for y in outputs]
    drawn = [v - v.mean(1, keepdim=True) if v.dim() == 2 else v for v in drawn]
    slopes = torch.autograd.grad(outputs, [x for _, x in values], drawn, allow_unused=True, materialize_grads=True)
    return [(name, x.detach(), slope) for (name, x), slope in zip(values, slopes, strict=True)]


def _sums(histogram: Histogram, x: Tensor, slope: Tensor) -> Float[Tensor, "2 bins"]:
    """Of the squared gradients in each bin, and of the values there."""
    bins = histogram.bins_of(x).flatten()
    squares = torch.bincount(bins, slope.flatten().square(), minlength=BINS)
    return torch.stack([squares.double(), torch.bincount(bins, minlength=BINS).double()])


def _means(squares: Float[Tensor, " bins"], counts: Float[Tensor, " bins"]) -> Float[Tensor, " bins"]:
    """The mean squared gradient in each bin, or in as many around it as hold enough values to tell."""
    mean, wanting = torch.zeros_like(squares), torch.ones(BINS, dtype=torch.bool)
    sums = [torch.cat([torch.zeros(1, dtype=torch.float64), each.cumsum(0)]) for each in (squares, counts)]
    places, reach = torch.arange(BINS), 0
    while wanting.any():
        first, last = (places - reach).clamp(min=0), (places + reach + 1).clamp(max=BINS)
        above, below = (each[last] - each[first] for each in sums)
        enough = wanting & ((below >= FEWEST) | (reach >= BINS))
        mean[enough] = (above / below.clamp(min=1))[enough]
        wanting &= ~enough
        reach = reach * 3 // 2 + 1
    return mean
