"""GPTQ (Frantar et al. 2022, arXiv:2210.17323): what rounding a weight does wrong, the weights after it make up for.

Solved layer by layer in closed form, from how a layer's inputs vary together: seconds, where learning takes minutes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, fx

from rescompress import fakequant, graph, progress
from rescompress.fakequant import FakeQuantize, quantizer_behind
from rescompress.quantization.channels import Channels, channels_of
from rescompress.quantization.rounding import told
from rescompress.quantization.streams import LAYERS, own_parameter, readers

SHOWN = True
EXACT = True
STEP = 8
"""Images at a time."""
HELD_OUT = 4
"""One image in so many judges the outcome and isn't learned from."""
PLACES = 128
"""Places of a map that are looked at in each image, drawn by chance; neighbours say much the same."""
SCARCITY = 10
"""How much more is added where the values seen are hardly more than the columns: by so many times their quotient."""
STRIP = 128
"""Columns that are rounded before the rest of the matrix hears of it."""
LARGEST = 2**29
"""Bytes of covariances held at once; a network with more is run once more for each such share of its layers."""


@torch.no_grad()
def round_weights(
    traced: fx.GraphModule,
    batches: Iterable[Float[Tensor, "_ 3 h w"]],
    generator: torch.Generator,
    *,
    images: Annotated[int, Field(ge=16)] = 128,
    damp: Annotated[float, Field(gt=0)] = 0.01,
) -> tuple[str, ...]:
    """Round all quantized weights to their grid, in place, and let the biases take what shifts the means.

    Columns are rounded by falling variance of what they read; the error of each goes to the columns not yet rounded,
    by the inverse of the inputs' covariance, or of their products' means where there is no bias. Layers are taken in
    order of execution, with the inputs that the rounded layers of earlier shares give them. A layer that isn't better
    than with rounding to nearest, on images held out, is left as it was.

    Args:
        traced: a quantized model whose scales are set; its weights are the float ones.
        batches: normalized images.
        generator: draws the places of large maps.
        images: how many are shown; a quarter of them judges the outcome.
        damp: share of the mean variance that is added to each variance, so that few images don't tell too much.
    """
    known: dict[fx.Node, _Inputs] = {}

    def add(layer: fx.Node, x: Float[Tensor, "n c ..."]) -> None:
        known[layer].add(x, generator)

    shown = torch.cat(list(_first(batches, images)))
    apart = max(1, len(shown) // HELD_OUT)
    learned, judging = torch.split(shown[apart:], STEP), torch.split(shown[:apart], STEP)
    shares = _shares(traced, [layer for layer in traced.graph.nodes if _is_open(traced, layer)])
    gains = list[tuple[str, float]]()
    for share in shares:
        known = {layer: _Inputs(traced, layer) for layer in share}
        _watch(traced, progress.track(learned, "gptq, inputs"), share, add)
        solving = progress.track(share, "gptq, layers")
        found = {layer: _rounded(traced, layer, known.pop(layer), damp) for layer in solving}
        for layer, gain in _judged(traced, judging, found).items():
            gains.append((graph.name_of(layer), gain))
            if gain < 1:
                _write(traced, layer, *found[layer])
    return tuple(told("gptq", "layers", gains))


def _first(batches: Iterable[Float[Tensor, "_ 3 h w"]], images: int) -> Iterator[Float[Tensor, "_ 3 h w"]]:
    """So many images, batch by batch."""
    for batch in batches:
        yield batch[:images]
        images -= len(batch)
        if images <= 0:
            return


def _is_open(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a layer's weight is rounded, and its alone."""
    if graph.op_of(node) not in LAYERS:
        return False
    rounds = quantizer_behind(traced, node.args[1]) is not None
    return rounds and own_parameter(traced, node.args[1]) is not None and readers(traced, node.args[1]) == 1


def _shares(traced: fx.GraphModule, layers: list[fx.Node]) -> Iterator[list[fx.Node]]:
    """The layers in order, as many at a time as memory holds the covariances of."""
    share, held = list[fx.Node](), 0
    for layer in layers:
        groups, columns = _Inputs(traced, layer).sides
        size = 4 * groups * columns**2
        if share and held + size > LARGEST:
            yield share
            share, held = [], 0
        share.append(layer)
        held += size
    if share:
        yield share


class _Inputs:
    """How the values that a layer's rows multiply vary together, over images and places.

    Attributes:
        sides: groups, and columns of each group's weights.
        count: of values seen in each column.
    """

    def __init__(self, traced: fx.GraphModule, layer: fx.Node) -> None:
        weight, arguments = _weight(traced, layer)[0], (*layer.args, *[None] * 7)
        self._kernel = tuple(weight.shape[2:])
        names = ("stride", "padding", "dilation")
        self._window = {name: value for name, value in zip(names, arguments[3:6], strict=True) if value is not None}
        groups = cast(int, arguments[6] or 1) if self._kernel else 1
        self.sides, self.count = (groups, weight[0].numel()), 0

    def add(self, x: Float[Tensor, "n c ..."], generator: torch.Generator) -> None:
        """Take note of a batch."""
        columns = self._columns(x, generator)
        if not self.count:
            self._products = torch.zeros(len(columns), columns.shape[1], columns.shape[1])
            self._sum = torch.zeros(columns.shape[:2])
        self._products.baddbmm_(columns, columns.transpose(1, 2))
        self._sum += columns.sum(2)
        self.count += columns.shape[2]

    def _columns(self, x: Float[Tensor, "n c ..."], generator: torch.Generator) -> Float[Tensor, "g d m"]:
        """What each column of the weights multiplies, at some places of each image."""
        if not self._kernel:
            return x.T[None]
        unfolded = F.unfold(x, self._kernel, **cast(Any, self._window))
        if unfolded.shape[2] > PLACES:
            unfolded = unfolded[:, :, torch.randperm(unfolded.shape[2], generator=generator)[:PLACES]]
        return unfolded.view(len(x), *self.sides, -1).permute(1, 2, 0, 3).flatten(2)

    @property
    def mean(self) -> Float[Tensor, "g d"]:
        """``E[x]``."""
        return self._sum / self.count

    def square(self) -> Float[Tensor, "g d d"]:
        """``E[x xᵀ]``."""
        return self._products / self.count

    def covariance(self) -> Float[Tensor, "g d d"]:
        """``E[x xᵀ] - E[x] E[x]ᵀ``: what is left of it where a bias takes the means."""
        return self.square().baddbmm_(self.mean[:, :, None], self.mean[:, None], alpha=-1)


def _watch(
    traced: fx.GraphModule,
    batches: Iterable[Float[Tensor, "_ 3 h w"]],
    layers: Iterable[fx.Node],
    see: Callable[[fx.Node, Float[Tensor, "n c ..."]], None],
) -> None:
    """Show what each of some layers reads, batch by batch, while nothing but activations is rounded."""
    sources = defaultdict[fx.Node, list[fx.Node]](list)
    for layer in layers:
        sources[cast(fx.Node, layer.args[0])].append(layer)

    def seen(node: fx.Node, x: Any) -> None:
        for layer in sources.get(node, ()):
            see(layer, x)

    activations = [site.quantizer for site in fakequant.sites_of(traced) if not site.is_weight]
    with fakequant.passing(traced, activations):
        for batch in batches:
            graph.watch(traced, batch, seen)


def _rounded(traced: fx.GraphModule, layer: fx.Node, inputs: _Inputs, damp: float) -> tuple[Tensor, Tensor]:
    """A layer's weight on its grid, and what its bias has to gain for the means to stay."""
    weight, quantizer = _weight(traced, layer)
    groups, columns = inputs.sides
    shape = (groups, -1, columns)
    scale, zero = (each.expand(len(weight)).view(groups, -1, 1) for each in (quantizer.scale, quantizer.zero_point))
    low, high = quantizer.site.limits

    def nearest(w: Float[Tensor, "g o k"]) -> Float[Tensor, "g o k"]:
        return ((w / scale).round() + zero).clamp(low, high).sub_(zero).mul_(scale)

    rows, mean = weight.view(shape), inputs.mean
    varies = inputs.covariance() if _bias(traced, layer) is not None else inputs.square()
    found = _solved(rows, varies, nearest, damp * (1 + SCARCITY * columns / inputs.count))
    lost = ((rows - found) @ mean[:, :, None]).flatten()
    return found.view_as(weight), lost


def _solved(
    rows: Float[Tensor, "g o d"],
    covariance: Float[Tensor, "g d d"],
    nearest: Callable[[Float[Tensor, "g o k"]], Float[Tensor, "g o k"]],
    damp: float,
) -> Float[Tensor, "g o d"]:
    """Round column by column; the inverse's Cholesky factor says how much of an error each later column takes."""
    variance = covariance.diagonal(dim1=1, dim2=2)
    mean = variance.mean(1)[:, None, None]
    covariance /= torch.where(mean > torch.finfo(torch.float32).tiny, mean, 1.0)
    order = variance.argsort(1, descending=True)
    sorted_ = covariance.gather(1, order[:, :, None].expand_as(covariance))
    sorted_ = sorted_.gather(2, order[:, None].expand_as(covariance))
    factor = _inverse_factor(sorted_, damp)
    places = order[:, None].expand_as(rows)
    left = rows.gather(2, places)
    found = torch.empty_like(left)
    for start in range(0, left.shape[2], STRIP):
        end = min(start + STRIP, left.shape[2])
        errors = torch.empty_like(left[:, :, start:end])
        for column in range(start, end):
            here = slice(column, column + 1)
            found[:, :, here] = nearest(left[:, :, here])
            error = (left[:, :, here] - found[:, :, here]) / factor[:, here, here]
            left[:, :, column:end] -= error @ factor[:, here, column:end]
            errors[:, :, column - start : column - start + 1] = error
        left[:, :, end:] -= errors @ factor[:, start:end, end:]
    return torch.empty_like(found).scatter_(2, places, found)


def _inverse_factor(covariance: Float[Tensor, "g d d"], damp: float) -> Float[Tensor, "g d d"]:
    """The upper Cholesky factor of the inverse of relative covariances, which are dampened in place.

    Those of values that hardly vary are mostly rounding errors, and need not have one: then there is ten times more
    dampening, at most what makes every column stand alone.
    """
    while damp <= covariance.shape[1]:
        covariance.diagonal(dim1=1, dim2=2).add_(damp)
        lower, failed = torch.linalg.cholesky_ex(covariance)
        if not bool(failed.any()):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not bool(failed.any()):
                return cast(Tensor, upper)
        damp *= 10
    return torch.eye(covariance.shape[1]).expand_as(covariance)


def _judged(
    traced: fx.GraphModule,
    batches: Iterable[Float[Tensor, "_ 3 h w"]],
    found: Mapping[fx.Node, tuple[Tensor, Tensor]],
) -> dict[fx.Node, float]:
    """Squared error of each layer's output, as a share of that of rounding to nearest; a bias takes the means."""
    ways = dict[fx.Node, tuple[Tensor, Tensor]]()
    for layer, (rounded, _) in found.items():
        weight, quantizer = _weight(traced, layer)
        ways[layer] = (rounded - weight, quantizer(weight) - weight)
    errors = dict[tuple[fx.Node, int], Channels]()

    def see(layer: fx.Node, x: Float[Tensor, "n c ..."]) -> None:
        for way, change in enumerate(ways[layer]):
            error = channels_of(cast(Any, layer.target)(x, change, None, *layer.args[3:]))
            known = errors.get((layer, way))
            errors[layer, way] = known.joined(error) if known else error

    _watch(traced, batches, found, see)
    sums = {}
    for (layer, way), error in errors.items():
        wrong = error.deviation.square() if _bias(traced, layer) is not None else error.square
        sums[layer, way] = float(wrong.sum())
    return {layer: sums[layer, 0] / sums[layer, 1] if sums[layer, 1] else 1.0 for layer in found}


def _write(traced: fx.GraphModule, layer: fx.Node, rounded: Tensor, lost: Tensor) -> None:
    """Give a layer its weights, and what the means lose to its bias if that is its own."""
    _weight(traced, layer)[0].copy_(rounded)
    bias = _bias(traced, layer)
    if bias is not None:
        bias.add_(lost)


def _weight(traced: fx.GraphModule, layer: fx.Node) -> tuple[Tensor, FakeQuantize]:
    weight, quantizer = own_parameter(traced, layer.args[1]), quantizer_behind(traced, layer.args[1])
    assert weight is not None
    assert quantizer is not None
    return weight.data, quantizer


def _bias(traced: fx.GraphModule, layer: fx.Node) -> Tensor | None:
    """A layer's bias, if it has one of its own."""
    bias = own_parameter(traced, layer.args[2]) if len(layer.args) > 2 else None
    return bias.data if bias is not None and readers(traced, layer.args[2]) == 1 else None
