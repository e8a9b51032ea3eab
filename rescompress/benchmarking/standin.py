"""A quantized stand-in for a float model: it computes nonsense with the very kernels that the real one will run on."""

from typing import cast

import torch
from torch import fx, nn

from rescompress import fakequant, graph
from rescompress.placement import place
from rescompress.schemes import QuantScheme
from rescompress.sites import LIMITS, WEIGHT_LIMITS, Site

_STEP, _MIDDLE = 1 / 32, 128


def quantized_standin(model: nn.Module, input_shape: tuple[int, int, int], scheme: QuantScheme) -> fx.GraphModule:
    """The captured model with fake-quants where the runtime wants them and with ranges that are made up.

    How long a layer takes depends on its shape and on its integer types, not on its numbers. So a BatchNorm behind a
    convolution leaves nothing but a bias, as it does when it is folded, and nothing is calibrated.

    Args:
        model: any float module; it is not edited.
        input_shape: channels, height and width of its input.
        scheme: the runtime's facts.
    """
    traced = graph.capture(graph.clone(model).eval().cpu(), input_shape)
    _drop_norms(traced)
    sites = place(traced, scheme)
    values = graph.values(traced)
    fakequant.insert(traced, sites)
    for site in sites:
        quantizer = fakequant.quantizer_of(traced, site)
        if site.is_weight:
            weight = graph.tensor_of(traced, values[site.value]).detach()
            largest = weight.abs().flatten(1).amax(1) if site.channels else weight.abs().amax().view(1)
            quantizer.scale.copy_(largest.clamp(min=1e-6) / WEIGHT_LIMITS[1])
        else:
            # runtimes run a ReLU for free where its zero is the smallest integer
            signed = graph.op_of(values[site.quantizer]) != "relu" and not scheme.symmetric_activations
            quantizer.zero_point.fill_(_MIDDLE + LIMITS[site.dtype][0] if signed else _zero(site, scheme))
            quantizer.scale.fill_(_STEP)
    return traced


def _zero(site: Site, scheme: QuantScheme) -> int:
    """The integer of zero behind a ReLU."""
    return 0 if scheme.symmetric_activations else LIMITS[site.dtype][0]


def _drop_norms(traced: fx.GraphModule) -> None:
    """Take out each BatchNorm that would be folded; its convolution gets a bias."""
    for norm in list(traced.graph.nodes):
        conv = norm.args[0] if graph.op_of(norm) == "batch_norm" else None
        if not isinstance(conv, fx.Node) or graph.op_of(conv) != "conv" or len(conv.users) > 1:
            continue
        # the functional form of the op returns statistics too
        outputs = [user for user in norm.users if user.op == "call_function" and "getitem" in str(user.target)]
        for output in outputs or [norm]:
            output.replace_all_uses_with(conv)
            traced.graph.erase_node(output)
        if outputs:
            traced.graph.erase_node(norm)
        if len(conv.args) < 3 or conv.args[2] is None:
            _give_bias(traced, conv)
    traced.recompile()


def _give_bias(traced: fx.GraphModule, conv: fx.Node) -> None:
    name = graph.name_of(conv)
    path = str(cast(fx.Node, conv.args[1]).target).rpartition(".")[0]
    bias = nn.Parameter(torch.zeros(conv.meta["val"].shape[1]))
    setattr(traced.get_submodule(path), "bias", bias)  # noqa: B010 - mypy knows no such attribute
    with traced.graph.inserting_before(conv):
        node = traced.graph.get_attr(f"{path}.bias")
    node.meta["value_name"] = f"{name}.bias"
    conv.args = (*conv.args[:2], node, *conv.args[3:])
