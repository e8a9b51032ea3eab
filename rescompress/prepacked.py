"""Convolutions on the processor whose weights are laid out once, in the order in which its kernels read them.

PyTorch lays them out in every call, or takes a kernel that is slower and needn't: on one thread ResNet-50 takes twice
as long.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from rescompress import graph

Convolution = Callable[[Tensor], Tensor]


def convolutions(traced: fx.GraphModule, batch: int) -> dict[fx.Node, Convolution]:
    """What to run in place of each convolution, without gradients; the sums differ by rounding alone.

    Weights are taken as they are now. Convolutions of other numbers than float32, on another device, or with weights
    that are computed are left out, and so are all where PyTorch has no oneDNN.

    Args:
        traced: a captured graph.
        batch: how many images it will mostly run on; it decides the order only.
    """
    available: Callable[[], bool] = torch.backends.mkldnn.is_available
    if not available():
        return {}
    nodes = [node for node in traced.graph.nodes if node.target is torch.ops.aten.conv2d.default]
    found = {node: _of(traced, node, batch) for node in nodes}
    return {node: run for node, run in found.items() if run is not None}


def _of(traced: fx.GraphModule, node: fx.Node, batch: int) -> Convolution | None:
    source, *named, padding, stride, dilation, groups = _arguments(*node.args)
    if any(each is not None and each.op != "get_attr" for each in named):
        return None
    weight, bias = (None if each is None else graph.tensor_of(traced, each).detach().clone() for each in named)
    if weight is None or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    how: list[Any] = [padding, stride, dilation, groups]
    size = [batch, *(int(length) for length in source.meta["val"].shape[1:])]
    lay_out: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    return partial(_run, lay_out(weight.to_mkldnn(), *how, size), bias, how)


def _run(weight: Tensor, bias: Tensor | None, how: list[Any], x: Tensor) -> Tensor:
    made: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *how, "none", [], "")
    return made


def _arguments(*given: Any) -> tuple[Any, ...]:
    """Of ``aten.conv2d`` with its defaults, in oneDNN's order: stride and padding change places."""
    defaults: tuple[Any, ...] = (None, None, None, (1, 1), (0, 0), (1, 1), 1)
    x, weight, bias, stride, padding, dilation, groups = [*given, *defaults[len(given) :]]
    return x, weight, bias, padding, stride, dilation, groups
