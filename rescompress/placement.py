"""Where the fake-quants go: at each input of an op that the runtime has in INT8, one scale per value."""

from collections.abc import Collection, Iterator
from typing import Literal

from torch import fx

from rescompress import catalog, graph
from rescompress.errors import RecipeError
from rescompress.schemes import QuantScheme
from rescompress.sites import Dtype, Site

Kind = Literal["int8", "dynamic", "w8", "w4"]
"""Weights and activations in INT8; activations by their range at run time; weights alone in 8 or in 4 bits."""

LAYERS = ("conv", "linear")


def place(
    traced: fx.GraphModule,
    scheme: QuantScheme,
    *,
    precision: Kind = "int8",
    weight_bits: Literal[4, 8] = 8,
    first: bool = True,
    classifier: bool = True,
    float_layers: Collection[str] = (),
) -> tuple[Site, ...]:
    """The values of a captured graph that become integers under a runtime's scheme, in order of execution.

    A value that several layers read is quantized once. An op that only moves values (pooling by maximum, reshaping)
    hands its input's scale on, so that the runtime can move the integers themselves. The logits stay float where the
    runtime allows it; where it doesn't and the scheme won't have integer logits, the layer that makes them stays float.
    An op behind which the network goes on in float, such as a normalization, has its output quantized where the
    runtime needs that. With ``dynamic`` only the inputs of layers are quantized, with ``w8`` and ``w4`` none.

    Args:
        traced: a captured graph without BatchNorm behind a convolution.
        scheme: the runtime's facts.
        precision: what becomes integers.
        weight_bits: of the weights where activations are integers too.
        first: quantize the first layer.
        classifier: quantize the layer that makes the logits.
        float_layers: names of layers and other ops, such as ``layer1.0.conv2`` or ``layer1.0.add``, that stay float.

    Raises:
        RecipeError: ``float_layers`` names what is not in the graph.
    """
    static = precision == "int8"
    kept = _kept(traced, scheme, first, classifier, float_layers)
    wanted = scheme.quantized_ops if static else LAYERS
    chosen = [
        node
        for node in traced.graph.nodes
        if graph.op_of(node) in wanted and node not in kept and not _hindrance(node, scheme, static)
    ]
    layers = [node for node in chosen if graph.op_of(node) in LAYERS]
    dtype: Dtype = "int4" if precision == "w4" or (weight_bits == 4 and precision != "w8") else "int8"
    weights = {site.value: site for site in (_weight_site(node, scheme, dtype) for node in layers)}
    inputs = {"int8": _static, "dynamic": _at_run_time}
    activations = inputs[precision](traced, chosen, scheme) if precision in inputs else ()
    return (*activations, *weights.values())


def hindered(traced: fx.GraphModule, scheme: QuantScheme, precision: Kind = "int8") -> tuple[str, ...]:
    """A sentence for each layer with weights that can't be quantized, so that it stays in float whatever is asked.

    Args:
        traced: a captured graph.
        scheme: the runtime's facts.
        precision: as for ``place``.
    """
    return tuple(
        f"{graph.name_of(node)} ({graph.op_of(node)}) stays in float: {reason}."
        for node in traced.graph.nodes
        if _has_weights(node) and (reason := _hindrance(node, scheme, precision == "int8"))
    )


def _has_weights(node: fx.Node) -> bool:
    """Whether a node meets what comes from the images with a matrix, or more, of parameters."""
    sources = [source.meta.get("val") for source in node.all_input_nodes if source.op == "get_attr"]
    weighted = graph.op_of(node) in LAYERS or any(value is not None and value.dim() > 1 for value in sources)
    return weighted and _from_images(node)


def _hindrance(node: fx.Node, scheme: QuantScheme, static: bool) -> str:
    """Why a node can't be quantized; empty if it can."""
    op = graph.op_of(node)
    if op in LAYERS:
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        if weight.op != "get_attr" or not graph.name_of(weight).endswith(".weight"):
            return "its weight is computed while the network runs, or has no name of its own"
        if static and op in scheme.closed_ops and not scheme.quantized_logits and _makes_logits(node, scheme):
            return f"it makes the logits, and {scheme.runtime} has no {op} in INT8 that writes float"
        if static and any(graph.op_of(user) in scheme.float_before for user in node.users):
            return f"{scheme.runtime} would run other layers in float if it were INT8"
        return ""
    if op in scheme.quantized_ops:
        if op in ("add", "mul") and len(_sources(node)) < 2:
            return "it has one input"
        logits = op in scheme.closed_ops and not scheme.quantized_logits and _makes_logits(node, scheme)
        return "it makes the logits" if logits else ""
    return "only convolutions and linear layers have integer weights"


def _kept(
    traced: fx.GraphModule, scheme: QuantScheme, first: bool, classifier: bool, names: Collection[str]
) -> set[fx.Node]:
    """The nodes that stay float because somebody asked for it."""
    known = {
        graph.name_of(node): node
        for node in traced.graph.nodes
        if node.op == "call_function" and graph.op_of(node) in {*LAYERS, *scheme.quantized_ops}
    }
    for name in names:
        if name not in known:
            raise RecipeError(f"There is no layer {name} to keep in float.", catalog.suggest(name, list(known)))
    layers = [node for node in known.values() if graph.op_of(node) in LAYERS]
    kept = {known[name] for name in names}
    if not first:
        kept.update(layers[:1])
    if not classifier:
        kept.update(node for node in layers if _makes_logits(node, scheme))
    return kept


def _static(traced: fx.GraphModule, chosen: list[fx.Node], scheme: QuantScheme) -> tuple[Site, ...]:
    """Sites of activations whose ranges are known beforehand."""
    needed: dict[fx.Node, str] = {}
    for node in chosen:
        for source in _integer_inputs(node, scheme):
            _need(source, scheme, needed)
        if graph.op_of(node) in scheme.closed_ops:
            _need(_behind_relu(node), scheme, needed)
    return tuple(
        Site(graph.name_of(node), needed[node], scheme.activation_dtype, symmetric=scheme.symmetric_activations)
        for node in traced.graph.nodes
        if node in needed
    )


def _at_run_time(traced: fx.GraphModule, chosen: list[fx.Node], _: QuantScheme) -> tuple[Site, ...]:
    """Sites of activations whose ranges each run finds out; every value has its own."""
    read = {source for node in chosen for source in _sources(node)}
    names = [graph.name_of(node) for node in traced.graph.nodes if node in read]
    return tuple(Site(name, name, "uint8", dynamic=True) for name in names)


def _integer_inputs(node: fx.Node, scheme: QuantScheme) -> list[fx.Node]:
    """The activations that a node reads as integers."""
    sources = _sources(node)
    if graph.op_of(node) != "add" or scheme.add_inputs == "both":
        return sources
    fusable = [source for source in sources if graph.op_of(source) == "conv" and len(source.users) == 1]
    if len(fusable) == 1:
        return [source for source in sources if source not in fusable]
    return [_shortcut(sources)]


def _shortcut(sources: list[fx.Node]) -> fx.Node:
    """The input of a residual add that comes by the shorter way from where the two part.

    An identity has no step of its own, a projection fewer layers than the branch. Of equals, the second is meant.
    """
    behind = {source: set(_ancestors(source)) for source in sources}
    shared = set.intersection(*behind.values())

    def length(source: fx.Node) -> tuple[int, int]:
        own = behind[source] - shared
        return sum(graph.op_of(node) in LAYERS for node in own), len(own)

    return min(reversed(sources), key=length)


def _sources(node: fx.Node) -> list[fx.Node]:
    """The activations that a node reads; what is computed from parameters alone is a constant."""
    return [source for source in graph.inputs_of(node) if _from_images(source)]


def _from_images(node: fx.Node) -> bool:
    return any(source.op == "placeholder" for source in _ancestors(node))


def _ancestors(node: fx.Node) -> Iterator[fx.Node]:
    """A node and all that its value is computed from."""
    seen, waiting = {node}, [node]
    while waiting:
        yield (now := waiting.pop())
        new = [source for source in graph.inputs_of(now) if source not in seen]
        seen.update(new)
        waiting += new


def _behind_relu(node: fx.Node) -> fx.Node:
    """The value that leaves the integer kernel: runtimes run a ReLU in the layer before it."""
    users = list(node.users)
    return users[0] if len(users) == 1 and graph.op_of(users[0]) == "relu" else node


def _makes_logits(node: fx.Node, scheme: QuantScheme) -> bool:
    """Whether what leaves a node's kernel reaches the output as a row of numbers, having been moved only."""
    waiting = [_behind_relu(node)]
    while waiting:
        now = waiting.pop()
        for user in now.users:
            if user.op == "output" and now.meta["val"].dim() == 2:
                return True
            if user.op == "call_function" and graph.op_of(user) in scheme.passing_ops:
                waiting.append(user)
    return False


def _need(node: fx.Node, scheme: QuantScheme, needed: dict[fx.Node, str]) -> str:
    """Mark a value and all that it was moved from; give the name of the scale that they share."""
    if node not in needed:
        moved = graph.op_of(node) in scheme.passing_ops
        needed[node] = _need(graph.inputs_of(node)[0], scheme, needed) if moved else graph.name_of(node)
    return needed[node]


def _weight_site(node: fx.Node, scheme: QuantScheme, dtype: Dtype) -> Site:
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    name = graph.name_of(weight)
    channels = weight.meta["val"].shape[0] if scheme.per_channel_weights else None
    return Site(name, name, dtype, channels, symmetric=True)
