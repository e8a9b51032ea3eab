"""Where the fake-quants go: at each input of an op that the runtime has in INT8, one scale per value."""

from torch import fx

from rescompress import graph
from rescompress.fakequant import Site
from rescompress.spec import QuantScheme


def place(traced: fx.GraphModule, scheme: QuantScheme) -> tuple[Site, ...]:
    """The values of a captured graph that become INT8 under a runtime's scheme, in order of execution.

    A value that several layers read is quantized once. An op that only moves values (pooling by maximum, reshaping)
    hands its input's scale on, so that the runtime can move the integers themselves. The logits stay float, and so does
    a layer that makes them and could run in INT8 only with integer logits. An op behind which the network goes on in
    float, such as a normalization, has its output quantized where the runtime needs that.

    Args:
        traced: a captured graph without BatchNorm behind a convolution.
        scheme: the runtime's facts.
    """
    chosen = [node for node in traced.graph.nodes if _runs_in_int8(node, scheme)]
    needed: dict[fx.Node, str] = {}
    for node in chosen:
        for source in graph.inputs_of(node):
            _need(source, scheme, needed)
        if graph.op_of(node) in scheme.closed_ops:
            _need(_behind_relu(node), scheme, needed)
    order = {node: place for place, node in enumerate(traced.graph.nodes)}
    sites = [
        Site(graph.name_of(node), quantizer, scheme.activation_dtype)
        for node, quantizer in sorted(needed.items(), key=lambda item: order[item[0]])
    ]
    return (*sites, *(_weight_site(node, scheme) for node in chosen if graph.op_of(node) in ("conv", "linear")))


def _runs_in_int8(node: fx.Node, scheme: QuantScheme) -> bool:
    op = graph.op_of(node)
    if op not in scheme.quantized_ops or (op == "mul" and len(graph.inputs_of(node)) < 2):
        return False
    return op not in scheme.closed_ops or not _makes_logits(_behind_relu(node), scheme)


def _behind_relu(node: fx.Node) -> fx.Node:
    """The value that leaves the integer kernel: runtimes run a ReLU in the layer before it."""
    users = list(node.users)
    return users[0] if len(users) == 1 and graph.op_of(users[0]) == "relu" else node


def _makes_logits(node: fx.Node, scheme: QuantScheme) -> bool:
    """Whether a value reaches the output as a row of numbers, having been moved only."""
    for user in node.users:
        moved = user.op == "call_function" and graph.op_of(user) in scheme.passing_ops
        if (user.op == "output" and node.meta["val"].dim() == 2) or (moved and _makes_logits(user, scheme)):
            return True
    return False


def _need(node: fx.Node, scheme: QuantScheme, needed: dict[fx.Node, str]) -> str:
    """Mark a value and all that it was moved from; give the name of the scale that they share."""
    if node not in needed:
        moved = graph.op_of(node) in scheme.passing_ops
        needed[node] = _need(graph.inputs_of(node)[0], scheme, needed) if moved else graph.name_of(node)
    return needed[node]


def _weight_site(node: fx.Node, scheme: QuantScheme) -> Site:
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    name = graph.name_of(weight)
    return Site(name, name, "int8", weight.meta["val"].shape[0] if scheme.per_channel_weights else None)
