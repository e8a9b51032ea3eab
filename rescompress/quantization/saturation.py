"""What a quantized model computes where integer kernels saturate: x86 without VNNI, emulated exactly.

There an u8 x s8 kernel multiplies with ``vpmaddubsw``, which adds the products of two neighbouring inputs in 16 bits:
``clamp(x w + x' w', -32768, 32767)``; only these pairs are then added up in 32 bits (Intel 64 and IA-32 Software
Developer's Manual, PMADDUBSW). Which inputs are neighbours follows from how a kernel packs them, see ``pairs``.
"""

from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, fx
from torch.nn import functional as F

from rescompress import fakequant, graph, metrics, progress

Packing = Literal["rows", "blocks"]
"""``rows``: one row of all kernel positions, channels innermost (im2col and matrix multiply, as in ONNX Runtime's MLAS
for what follows); ``blocks``: four channels of one position (convolutions of oneDNN, so of OpenVINO, and those of MLAS
whose channels are a multiple of 4). They differ for an odd number of channels only, such as an image's three."""
LOWEST, HIGHEST = -(2**15), 2**15 - 1


def pairs(channels: int, positions: int, packing: Packing) -> Int[Tensor, "p 2"]:
    """The inputs whose products meet in 16 bits, as places in a row of a weight ``[o, channels * positions]``.

    Args:
        channels: input channels of one group.
        positions: of the kernel, height times width.
        packing: how the kernel packs its inputs; an input without a neighbour is left out, it can't overflow.
    """
    order = torch.arange(channels * positions).view(channels, positions).T
    if packing == "rows":
        order = order.reshape(1, -1)
    even = order.shape[1] // 2 * 2
    return order[:, :even].reshape(-1, 2)


def pairs_of(weight: Tensor, groups: int, packing: Packing) -> Int[Tensor, "p 2"]:
    """The pairs of a layer's weight; none for a depthwise convolution, whose kernels add in 32 bits at once."""
    if groups > 1 and weight.shape[:2] == (groups, 1):
        return torch.zeros(0, 2, dtype=torch.int64)
    return pairs(weight.shape[1], weight[0, 0].numel(), packing)


def reaches(largest: Int[Tensor, " c"], shape: torch.Size, groups: int) -> Int[Tensor, "o k"]:
    """The largest input that each weight of a layer ``[o, i, *kernel]`` meets, given that of each input channel."""
    positions = shape[2:].numel()
    rows = largest.view(groups, shape[1]).repeat_interleave(shape[0] // groups, 0)
    return rows.repeat_interleave(positions, 1)


def overflows(w: Int[Tensor, "o k"], reach: Int[Tensor, "o k"], found: Int[Tensor, "p 2"]) -> Bool[Tensor, "o p"]:
    """The pairs whose products can pass 16 bits for inputs from 0 to ``reach``: weights of one sign at full reach."""
    products = (w * reach)[:, found]
    return (products.clamp(min=0).sum(2) > HIGHEST) | (products.clamp(max=0).sum(2) < LOWEST)


def accumulated(
    x: Int[Tensor, "n c *hw"], w: Int[Tensor, "o i *k"], node: fx.Node, packing: Packing, zero_point: int = 0
) -> Float[Tensor, "n o *_"]:
    """The 32-bit sums that a saturating kernel makes of a layer's integers, in double precision.

    They are the exact sums less what each pair of products loses; only the few pairs that can lose anything, with
    their inputs at the largest that there are, are computed one by one.

    Args:
        x: input, 0 to 255.
        w: weight, -127 to 127.
        node: the convolution or linear layer, for its stride, padding, dilation and groups.
        packing: how the kernel packs its inputs.
        zero_point: what stands in the padding.
    """
    if graph.op_of(node) == "linear":
        total = F.linear(x.double(), w.double())
        x, total, steps, groups = x[..., None, None], total[..., None, None], ((1, 1), (1, 1)), 1
        sums = _less_lost(total, x, w[..., None, None], steps, groups, packing)
        return sums[..., 0, 0]
    stride, padding, dilation, groups = geometry(node)
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]), value=zero_point)
    total = F.conv2d(x.double(), w.double(), None, stride, 0, dilation, groups)
    return _less_lost(total, x, w, (stride, dilation), groups, packing)


def geometry(node: fx.Node) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
    """Stride, padding, dilation and groups of a convolution."""
    given: list[Any] = [*node.args[3:7]]
    stride, padding, dilation, groups = given + [1, 0, 1, 1][len(given) :]
    return _two(stride), _two(padding), _two(dilation), int(groups)


def _two(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


Steps = tuple[tuple[int, int], tuple[int, int]]


def _less_lost(
    total: Float[Tensor, "n o h w"],
    x: Int[Tensor, "n c h1 w1"],
    w: Int[Tensor, "o i kh kw"],
    steps: Steps,
    groups: int,
    packing: Packing,
) -> Float[Tensor, "n o h w"]:
    """Take off what the pairs lose, in place."""
    found = pairs_of(w, groups, packing)
    rows = w.flatten(1)
    reach = reaches(x.transpose(0, 1).flatten(1).amax(1), w.shape, groups)
    risky = overflows(rows, reach, found)
    size = len(w) // groups
    for place in risky.any(0).nonzero().flatten().tolist():
        all_chosen = risky[:, place].nonzero().flatten()
        for group in sorted({int(o) // size for o in all_chosen}):
            chosen = all_chosen[all_chosen // size == group]
            one, other = (
                _slice(x, int(k), group, w.shape[1:], total.shape[2:], steps)[:, None]
                * rows[chosen, int(k)].view(1, -1, 1, 1)
                for k in found[place]
            )
            exact = one + other
            total[:, chosen] -= (exact - exact.clamp(LOWEST, HIGHEST)).double()
    return total


def _slice(
    x: Int[Tensor, "n c h1 w1"], k: int, group: int, kernel: torch.Size, out: torch.Size, steps: Steps
) -> Int[Tensor, "n h w"]:
    """What place ``k`` of a weight's row is multiplied with, at every output position."""
    channel, y, column = k // (kernel[1] * kernel[2]), k // kernel[2] % kernel[1], k % kernel[2]
    (sy, sx), (dy, dx) = steps
    top, left = y * dy, column * dx
    plane = x[:, group * kernel[0] + channel]
    return plane[:, top : top + sy * (out[0] - 1) + 1 : sy, left : left + sx * (out[1] - 1) + 1 : sx].long()


class Saturating(fx.Interpreter):
    """Runs a quantized graph as a CPU without VNNI does: layers with u8 inputs and s8 weights in saturating integers.

    Args:
        traced: a quantized graph.
        packing: how the runtime's kernels pack their inputs.
    """

    def __init__(self, traced: fx.GraphModule, packing: Packing = "rows") -> None:
        super().__init__(traced)
        self._traced, self._packing = traced, packing

    def run_node(self, n: fx.Node) -> Any:
        """A layer's output in float; anything else as it is."""
        quantizers = operands(self._traced, n)
        if quantizers is None:
            return super().run_node(n)
        x, w = quantizers
        images, weight, bias = (self._value(n, place) for place in range(3))
        assert images is not None
        assert weight is not None
        zero_point = int(x.zero_point[0])
        integers = (images.double() / x.scale.double()).round().long() + zero_point
        scale = w.scale.double().expand(len(weight))
        steps = (weight.double() / scale.view(-1, *[1] * (weight.dim() - 1))).round().long()
        total = accumulated(integers, steps, n, self._packing, zero_point)
        along = (1, -1, *[1] * (total.dim() - 2)) if graph.op_of(n) == "conv" else (-1,)
        total = (total - (zero_point * steps.flatten(1).sum(1)).double().view(along)) * x.scale.double()
        result = (total * scale.view(along)).float()
        return result if bias is None else result + bias.view(along)

    def _value(self, node: fx.Node, place: int) -> Tensor | None:
        source = node.args[place] if len(node.args) > place else None
        return cast(Tensor, self.env[source]) if isinstance(source, fx.Node) else None


def operands(traced: fx.GraphModule, node: fx.Node) -> tuple[fakequant.FakeQuantize, fakequant.FakeQuantize] | None:
    """The quantizers of a layer's input and weight if it multiplies u8 by s8; else None."""
    if graph.op_of(node) not in ("conv", "linear"):
        return None
    x, w = (fakequant.quantizer_behind(traced, source) for source in node.args[:2])
    return (x, w) if x is not None and w is not None and x.site.dtype == "uint8" else None


def sqnr_db(traced: fx.GraphModule, images: Float[Tensor, "n 3 h w"], packing: Packing = "rows") -> float:
    """SQNR of what the network gives where kernels saturate, against the float network in the same graph, in dB."""
    with torch.no_grad():
        few = progress.track(torch.split(images, 1), "simulate saturation")
        seen = torch.cat([Saturating(traced, packing).run(image) for image in few])
        with fakequant.passing(traced):
            reference = traced(images)
    return metrics.sqnr_db(reference.numpy(), seen.numpy())
