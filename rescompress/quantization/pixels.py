"""The image's own grid: pixels have 256 levels, and 256 integers tell them apart without any error.

Normalized images lie on three grids, one a channel, shifted against each other by fractions of a level, and reach
farther together than one scale and zero-point of 8 bits can follow level by level. Rounding them so would be the
largest single error of CIFAR's networks in INT8: a fifth of the logits' noise power.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import fx, nn

from rescompress import graph
from rescompress.layers import Pixels
from rescompress.quantization.grid import Range
from rescompress.quantization.streams import own_parameter, readers
from rescompress.spec import Preprocessing

LEVELS = 256
_aten = torch.ops.aten


@torch.no_grad()
def read_pixels(traced: fx.GraphModule, model: nn.Module, preprocessing: Preprocessing) -> tuple[str, Range] | None:
    """Let the first convolution read images on the grid of their pixels, in place; the network's answers stay.

    With ``x = (p / 255 - μ) / σ`` for pixels p of a channel, the images become ``s (p - z)``: one step s, one integer z
    for all channels. The convolution's weights take the factor and its bias the shift; its zero padding is added
    before, for zero is no level of ``p``.

    Args:
        traced: a captured float graph, its BatchNorms folded.
        model: what it was captured from.
        preprocessing: what the images are normalized by.

    Returns:
        The name of the value that holds them, which begins with the convolution's and ``.pixels``, and the range that
        makes ``s`` its step; None where the image isn't read by one plain convolution with a bias of its own.
    """
    conv = _first(traced, model, preprocessing)
    if conv is None:
        return None
    name, arguments = graph.name_of(conv), (*conv.args, *[None] * 7)
    known = (preprocessing.mean, preprocessing.std)
    mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in known)
    step, zero = float((1 / (255 * std)).mean()), int((255 * mean).mean().round())
    pixels = Pixels(len(mean), cast(Any, tuple(cast(list[int], arguments[4] or (0, 0)))))
    factor, shift = step * 255 * std, step * (zero - 255 * mean)
    pixels.factor.copy_(factor)
    pixels.shift.copy_(shift)
    weight, bias = (cast(nn.Parameter, own_parameter(traced, part)).data for part in arguments[1:3])
    scaled = weight.double() / factor
    bias.copy_(bias.double() + (scaled * shift).sum((1, 2, 3)))
    weight.copy_(scaled)
    traced.add_submodule(f"{name}.pixels", pixels)
    read = _inserted(traced, conv, pixels)
    conv.args = (read, *conv.args[1:3], arguments[3] or [1, 1], [0, 0], arguments[5] or [1, 1])
    traced.recompile()
    return graph.name_of(read), (-step * zero, step * (LEVELS - 1 - zero))


def _first(traced: fx.GraphModule, model: nn.Module, preprocessing: Preprocessing) -> fx.Node | None:
    """The convolution that alone reads the images, if a checkpoint can give it another form."""
    image = next(node for node in traced.graph.nodes if node.op == "placeholder")
    conv = next(iter(image.users))
    if len(image.users) > 1 or graph.op_of(conv) != "conv" or graph.is_captured(model):
        return None
    module = dict(model.named_modules()).get(graph.name_of(conv))
    own = [own_parameter(traced, part) for part in conv.args[1:3]]
    if type(module) is not nn.Conv2d or len(own) < 2 or any(part is None for part in own):
        return None
    alone = all(readers(traced, part) == 1 for part in conv.args[1:3])
    plain = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    fits = module.in_channels == len(preprocessing.mean)
    return conv if alone and plain and fits else None


def _inserted(traced: fx.GraphModule, conv: fx.Node, pixels: Pixels) -> fx.Node:
    """The steps of ``Pixels``, named and described as capturing them would."""
    name, image = f"{graph.name_of(conv)}.pixels", cast(fx.Node, conv.args[0])
    above, left = pixels.padding
    n, c, h, w = image.meta["val"].shape
    shape = (n, c, h + 2 * above, w + 2 * left)

    def step(suffix: str, target: Callable[..., Any], source: fx.Node, argument: Any) -> fx.Node:
        made = traced.graph.call_function(target, (source, argument))
        made.meta |= {"value_name": name + suffix, "val": image.meta["val"].new_empty(shape)}
        return made

    def constant(own: str) -> fx.Node:
        made = traced.graph.get_attr(f"{name}.{own}")
        made.meta |= {"value_name": f"{name}.{own}", "val": getattr(pixels, own)}
        return made

    with traced.graph.inserting_before(conv):
        padded = step("", _aten.constant_pad_nd.default, image, [left, left, above, above])
        scaled = step("_1", _aten.mul.Tensor, padded, constant("factor"))
        return step("_2", _aten.sub.Tensor, scaled, constant("shift"))
