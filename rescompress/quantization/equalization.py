"""Cross-layer equalization and high-bias absorption (Nagel et al. 2019, arXiv:1906.04721), safe at residual adds.

The captured graph is edited in place; its FP32 output stays the same.
"""

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, fx

from rescompress import graph, progress
from rescompress.quantization.channels import Channels
from rescompress.quantization.streams import Streams, own_parameter, streams_of

ROUNDS = 20
FARTHEST = 24
"""A channel is scaled by no more than this power of two: float32 has room for it, squares included."""
SHIFTING = ("max_pool", "avg_pool", "reshape")
"""Steps for which ``f(x - c) = f(x) - c`` with a constant c per channel, if they add no zeros of their own."""


@torch.no_grad()
def equalize(traced: fx.GraphModule, channels: Mapping[str, Channels] | None = None) -> int:
    """Scale channels so that those of one value, and the columns that read them, reach equally far.

    ``w_1' = S w_1, b_1' = S b_1, w_2' = w_2 S^-1`` with ``s = sqrt(r_2 / r_1)`` for each channel: r_1 is how far the
    value reaches (or the rows of the weights that make it, where no image was shown: the paper's data-free form), r_2
    how far the columns reach that read it, relative to each row's largest weight, because rows have scales of their
    own. All that make or read one channel of a residual stream are scaled together, with the r of whichever of them
    stands out most. Powers of two scale without rounding: the FP32 output stays equal to the bit, and at most half a
    bit of a channel's range is given away.

    Args:
        traced: a captured graph without fake-quants, its BatchNorms folded.
        channels: statistics by stable name, as ``watch_channels`` gives them; they hold for the graph before.

    Returns:
        How many channels were scaled.
    """
    streams = streams_of(traced)
    total = torch.zeros(streams.count, dtype=torch.float64)
    for _ in range(ROUNDS):
        k = _step(traced, streams, channels, total).round().clamp(-FARTHEST, FARTHEST)
        change = k - total
        if not bool(change.any()):
            break
        _scale(traced, streams, torch.exp2(change))
        total = k
    made = _scalable(streams)
    scaled = int((total[made] != 0).sum())
    if scaled:
        progress.note(f"equalize: {scaled} of {int(made.sum())} channels were scaled by powers of two.")
    return scaled


def _scalable(streams: Streams) -> Bool[Tensor, " k"]:
    """The classes that some layer makes, and that nothing holds to their scale."""
    made = torch.zeros(streams.count, dtype=torch.bool)
    for layer in streams.layers:
        made[streams.made(layer)] = True
    made[0] = False
    return made


def _step(
    traced: fx.GraphModule, streams: Streams, channels: Mapping[str, Channels] | None, total: Float[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """``log2 s`` of each class, counted from the network as it was given."""
    rows, columns = _rows(traced, streams), _columns(traced, streams)
    if channels is not None:
        rows = torch.full_like(total, 0.0)
        for node, of in streams.of.items():
            if graph.name_of(node) in channels and not _only_passes_through_relu(node):
                reach = channels[graph.name_of(node)].reach * torch.exp2(total[of])
                rows = rows.scatter_reduce(0, of, reach / reach.max().clamp(min=1e-300), "amax")
    wanted = (columns / rows).log2() / 2
    # Nothing reads it: it may not stand out among its neighbours. Nothing makes it: nor may its columns.
    middle = [float(part[part > 0].log2().median()) if bool((part > 0).any()) else 0.0 for part in (rows, columns)]
    wanted = torch.where((columns == 0) & (rows > 0), (middle[0] - rows.log2()).clamp(max=0), wanted)
    wanted = torch.where((rows == 0) & (columns > 0), (columns.log2() - middle[1]).clamp(min=0), wanted)
    wanted = torch.where((rows == 0) & (columns == 0), 0.0, wanted)
    wanted[0] = 0
    return total + wanted


def _only_passes_through_relu(node: fx.Node) -> bool:
    """Whether a value is never stored in INT8, because the ReLU behind it runs in the same kernel."""
    return all(graph.op_of(user) == "relu" for user in node.users)


def _rows(traced: fx.GraphModule, streams: Streams) -> Float[Tensor, " k"]:
    """How far the weights of each class's makers reach, as a share of the layer's farthest."""
    found = torch.zeros(streams.count, dtype=torch.float64)
    for layer in streams.layers:
        reach = _weight(traced, layer).flatten(1).abs().amax(1).double()
        found = found.scatter_reduce(0, streams.made(layer), reach / reach.max().clamp(min=1e-300), "amax")
    return found


def _columns(traced: fx.GraphModule, streams: Streams) -> Float[Tensor, " k"]:
    """How far the columns of each class's readers reach, as a share of the row's farthest, on the rows' average."""
    found = torch.zeros(streams.count, dtype=torch.float64)
    for layer in streams.layers:
        w = _columns_of(_weight(traced, layer))
        share = (w / w.amax(1, keepdim=True).clamp(min=1e-300)).square()
        read = streams.read(layer)
        size = torch.zeros_like(found).scatter_add(0, read.flatten(), share.flatten())
        count = torch.zeros_like(found).scatter_add(0, read.flatten(), torch.ones_like(share).flatten())
        found = torch.maximum(found, (size / count.clamp(min=1)).sqrt())
    return found


def _columns_of(weight: Float[Tensor, "o i ..."]) -> Float[Tensor, "o i"]:
    """The largest magnitude of each kernel, in double precision."""
    return weight.reshape(*weight.shape[:2], -1).abs().amax(2).double()


def _weight(traced: fx.GraphModule, layer: fx.Node) -> Float[Tensor, "o i ..."]:
    return graph.tensor_of(traced, cast(fx.Node, layer.args[1])).detach()


def _scale(traced: fx.GraphModule, streams: Streams, s: Float[Tensor, " k"]) -> None:
    """Multiply what makes each class by s and divide what reads it."""
    for layer in streams.layers:
        weight = _weight(traced, layer)
        factor = s[streams.made(layer)][:, None] / s[streams.read(layer)]
        weight.mul_(factor.view(*factor.shape, *[1] * (weight.dim() - 2)).to(weight))
        bias = own_parameter(traced, layer.args[2] if len(layer.args) > 2 else None)
        if bias is not None:
            bias.data.mul_(s[streams.made(layer)].to(bias))


@torch.no_grad()
def absorb(traced: fx.GraphModule, channels: Mapping[str, Channels]) -> int:
    """Move what every pixel of a channel has in common past its ReLU, into the biases of the layers that read it.

    ``r(W_1 x + b_1) = r(W_1 x + b_1 - c) + c`` wherever the pre-activation is above c, so ``b_1' = b_1 - c`` and
    ``b_2' = b_2 + W_2 c`` (section 4.1.3). The paper reads c off BatchNorm as ``max(0, β - 3γ)``; here it is the
    smallest value seen, so the output is the same on every image that was seen. Only where all readers are layers,
    and none of their weights ever meets zero padding, which would stand for -c.

    Args:
        traced: a captured graph without fake-quants, its BatchNorms folded.
        channels: statistics by stable name, as ``watch_channels`` gives them.

    Returns:
        How many channels had something to absorb.
    """
    streams, absorbed = streams_of(traced), 0
    for node in traced.graph.nodes:
        maker = _maker(node, streams)
        readers = _readers(traced, node, streams) if maker is not None else None
        if maker is None or not readers or graph.name_of(node) not in channels:
            continue
        c = channels[graph.name_of(node)].low.clamp(min=0)
        for layer in readers:
            c = torch.where(_takes_constants(traced, layer, len(c)), c, 0.0)
        if not bool(c.any()):
            continue
        own_parameter(traced, maker.args[2]).data.sub_(c.float())  # type: ignore[union-attr]
        for layer in readers:
            _add_response(traced, layer, c)
        absorbed += int((c > 0).sum())
    if absorbed:
        progress.note(f"absorb: the constant part of {absorbed} channels moved into the biases behind them.")
    return absorbed


def _maker(node: fx.Node, streams: Streams) -> fx.Node | None:
    """The layer with a bias whose output, or whose sum with another value, a ReLU reads alone."""
    if graph.op_of(node) != "relu":
        return None
    source = graph.inputs_of(node)[0]
    sources = graph.inputs_of(source) if graph.op_of(source) == "add" and len(source.users) == 1 else [source]
    makers = [part for part in sources if part in streams.layers and len(part.users) == 1]
    return next((part for part in makers if len(part.args) > 2 and part.args[2] is not None), None)


def _readers(traced: fx.GraphModule, node: fx.Node, streams: Streams) -> list[fx.Node] | None:
    """The layers that read a value, through pools, if a constant can pass to all of them; else None."""
    found = []
    for user in node.users:
        if user in streams.layers:
            found.append(user)
        elif graph.op_of(user) in SHIFTING and not _pads(user) and bool(user.users):
            behind = _readers(traced, user, streams)
            if behind is None:
                return None
            found += behind
        else:
            return None
    return found


def _takes_constants(traced: fx.GraphModule, layer: fx.Node, count: int) -> Bool[Tensor, " c"]:
    """Which channels a layer reads with a bias to take their constants, and no weight that may meet zero padding."""
    if len(layer.args) < 3 or layer.args[2] is None:
        return torch.zeros(count, dtype=torch.bool)
    weight, groups = _weight(traced, layer), _groups(layer)
    spoiled = ((weight != 0) & _at_border(layer, weight.shape[2:])).view(
        groups, -1, weight.shape[1], weight[0, 0].numel()
    )
    return ~spoiled.any(3).any(1).view(count, -1).any(1)


def _at_border(layer: fx.Node, kernel: torch.Size) -> Bool[Tensor, "..."]:
    """The weights of a kernel that may lie on zero padding."""
    found = torch.zeros(kernel, dtype=torch.bool)
    paddings, dilations = (layer.args[n] if len(layer.args) > n else () for n in (4, 5))
    if isinstance(paddings, str):
        return ~found
    for axis, padding in enumerate(cast(list[int], paddings)):
        place = torch.arange(kernel[axis]) * (cast(list[int], dilations)[axis] if dilations else 1)
        beyond = (place < padding) | (place.flip(0) < padding)
        found |= beyond.view([-1 if other == axis else 1 for other in range(len(kernel))])
    return found


def _pads(pool: fx.Node) -> bool:
    """Whether an average counts zeros at the border; a maximum never sees its padding."""
    if not str(pool.target).startswith("aten.avg_pool2d"):
        return False
    padding = cast(list[int], pool.args[3]) if len(pool.args) > 3 else []
    ceil_mode = bool(pool.args[4]) if len(pool.args) > 4 else False
    return any(padding) or ceil_mode


def _add_response(traced: fx.GraphModule, layer: fx.Node, c: Float[Tensor, " i"]) -> None:
    """Add a layer's answer to a constant input to its bias; each channel of a map stands for h w inputs once flat."""
    weight = _weight(traced, layer).double()
    width = weight.shape[1] * _groups(layer)
    spread = c.repeat_interleave(width // len(c))
    groups = _groups(layer)
    per_row = spread.view(groups, -1).repeat_interleave(len(weight) // groups, 0)
    response = (weight.reshape(len(weight), weight.shape[1], -1).sum(2) * per_row).sum(1)
    bias = own_parameter(traced, layer.args[2])
    assert bias is not None
    bias.data.add_(response.to(bias))


def _groups(layer: fx.Node) -> int:
    return cast(int, layer.args[6]) if graph.op_of(layer) == "conv" and len(layer.args) > 6 else 1
