"""Where the fake-quants go: at each input of an op that the runtime has in INT8, one scale per value."""

from torch import fx

from rescompress import graph
from rescompress.fakequant import Site
from rescompress.spec import QuantScheme


def place(traced: fx.GraphModule, scheme: QuantScheme) -> tuple[Site, ...]:
    """The values of a captured graph that become INT8 under a runtime's scheme, in order of execution.

    A value that several layers read is quantized once. An op that only moves values (pooling by maximum, reshaping)
    hands its input's scale on, so that the runtime can move the integers themselves. Nothing reads the logits, so they
    stay float.

    Args:
        traced: a captured graph without BatchNorm.
        scheme: the runtime's facts.
    """
    needed: dict[fx.Node, str] = {}
    for node in traced.graph.nodes:
        if graph.op_of(node) in scheme.quantized_ops:
            for source in graph.inputs_of(node):
                _need(source, scheme, needed)
    order = {node: place for place, node in enumerate(traced.graph.nodes)}
    sites = [
        Site(graph.name_of(node), quantizer, scheme.activation_dtype)
        for node, quantizer in sorted(needed.items(), key=lambda item: order[item[0]])
    ]
    return (*sites, *_weight_sites(traced, scheme))


def _need(node: fx.Node, scheme: QuantScheme, needed: dict[fx.Node, str]) -> str:
    """Mark a value and all that it was moved from; give the name of the scale that they share."""
    if node not in needed:
        moved = graph.op_of(node) in scheme.passing_ops
        needed[node] = _need(graph.inputs_of(node)[0], scheme, needed) if moved else graph.name_of(node)
    return needed[node]


def _weight_sites(traced: fx.GraphModule, scheme: QuantScheme) -> tuple[Site, ...]:
    sites = []
    for node in traced.graph.nodes:
        if graph.op_of(node) in ("conv", "linear") and graph.op_of(node) in scheme.quantized_ops:
            weight = node.args[1]
            channels = weight.meta["val"].shape[0] if scheme.per_channel_weights else None
            name = graph.name_of(weight)
            sites.append(Site(name, name, "int8", channels))
    return tuple(sites)
