"""Where the fake-quants go, on every network and under every scheme."""

from dataclasses import replace

import pytest
from torch import fx

from rescompress import backends, fakequant, graph
from rescompress.fakequant import Site
from rescompress.placement import place
from rescompress.spec import QuantScheme
from tests.networks import captured, quantized

pytestmark = pytest.mark.xdist_group("placement")

NETWORKS: dict[str, tuple[tuple[str, str], dict[str, int]]] = {
    "cifar resnet8": (("cifar", "resnet8"), {}),
    "torchvision resnet18": (("torchvision", "resnet18"), {"side": 64}),
    "torchvision resnet50": (("torchvision", "resnet50"), {"classes": 1000}),
}
SCHEMES = {name: backends.get(name).SCHEME for name in backends.names()}
SCHEMES["symmetric per tensor"] = replace(
    SCHEMES["onnxruntime"], activation_dtype="int8", symmetric_activations=True, per_channel_weights=False
)


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] if "resnet50" in name else []) for name in NETWORKS]
)
def traced(request: pytest.FixtureRequest) -> fx.GraphModule:
    names, arguments = NETWORKS[request.param]
    return captured(*names, **arguments)


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> QuantScheme:
    return SCHEMES[request.param]


def sites_by_value(traced: fx.GraphModule, scheme: QuantScheme) -> dict[str, Site]:
    sites = place(traced, scheme)
    assert len({site.value for site in sites}) == len(sites), "a value is quantized twice"
    return {site.value: site for site in sites}


def test_every_layer_reads_int8(traced: fx.GraphModule, scheme: QuantScheme) -> None:
    sites = sites_by_value(traced, scheme)
    layers = [node for node in traced.graph.nodes if graph.op_of(node) in ("conv", "linear")]
    assert layers
    for node in layers:
        x, w = (sites[graph.name_of(source)] for source in node.args[:2])
        assert (x.dtype, x.channels) == (scheme.activation_dtype, None)
        assert (w.dtype, w.is_weight) == ("int8", True)
        assert w.channels == (node.meta["val"].shape[1] if scheme.per_channel_weights else None)


def test_both_inputs_of_every_add_are_int8(traced: fx.GraphModule, scheme: QuantScheme) -> None:
    sites = sites_by_value(traced, scheme)
    adds = [node for node in traced.graph.nodes if graph.op_of(node) == "add"]
    assert adds
    assert all(graph.name_of(source) in sites for node in adds for source in node.args[:2])


def test_the_logits_stay_float(traced: fx.GraphModule, scheme: QuantScheme) -> None:
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    (logits,) = output.all_input_nodes
    assert graph.op_of(logits) == "linear"
    assert graph.name_of(logits) not in sites_by_value(traced, scheme)


def test_what_only_moves_values_keeps_its_inputs_scale(traced: fx.GraphModule, scheme: QuantScheme) -> None:
    sites = sites_by_value(traced, scheme)
    moves = [node for node in traced.graph.nodes if graph.op_of(node) in scheme.passing_ops]
    assert moves
    for node in moves:
        assert sites[graph.name_of(node)].quantizer == sites[graph.name_of(node.args[0])].quantizer
    own = [site for site in sites.values() if site.value not in {graph.name_of(node) for node in moves}]
    assert all(site.quantizer == site.value for site in own)


def test_the_stem_pool_of_imagenet_networks_is_such_a_move() -> None:
    sites = sites_by_value(captured("torchvision", "resnet18", side=64), SCHEMES["onnxruntime"])
    assert sites["maxpool"].quantizer == "relu"


def test_relu_hides_the_convolution_before_it() -> None:
    """The runtime computes both at once, so nothing stands between them."""
    sites = sites_by_value(captured("cifar", "resnet8"), SCHEMES["onnxruntime"])
    assert "conv1" not in sites
    assert "layer1.0.conv1" not in sites
    assert "layer1.0.conv2" in sites  # it feeds the add


def test_sites_become_modules_and_come_back() -> None:
    traced = captured("cifar", "resnet8")
    model = quantized("cifar", "resnet8")
    assert fakequant.sites_of(model) == place(traced, SCHEMES["onnxruntime"])
    assert fakequant.sites_of(traced) == ()
    quantizers = {name for name, module in model.named_modules() if isinstance(module, fakequant.FakeQuantize)}
    assert len(quantizers) == len({site.quantizer for site in fakequant.sites_of(model)})
