"""Where the fake-quants go, on every network and under every scheme."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

from rescompress import fakequant, graph
from rescompress.errors import RecipeError
from rescompress.placement import hindered, place
from rescompress.quantization import quantize
from rescompress.schemes import SCHEMES as FACTS
from rescompress.schemes import QuantScheme
from rescompress.sites import Site
from tests.networks import captured, context, fused

pytestmark = pytest.mark.xdist_group("placement")

NETWORKS: dict[str, tuple[tuple[str, str], dict[str, int]]] = {
    "cifar resnet8": (("cifar", "resnet8"), {}),
    "torchvision resnet18": (("torchvision", "resnet18"), {"side": 64}),
    "torchvision resnet50": (("torchvision", "resnet50"), {"classes": 1000}),
}
SCHEMES = {
    **FACTS,
    "symmetric per tensor": replace(
        FACTS["onnxruntime"], activation_dtype="int8", symmetric_activations=True, per_channel_weights=False
    ),
}


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
    gates = [node for node in layers if any(graph.op_of(user) in scheme.float_before for user in node.users)]
    assert not any(graph.name_of(node.args[1]) in sites for node in gates)
    layers = [node for node in layers if node not in gates]
    assert layers
    for node in layers:
        x, w = (sites[graph.name_of(source)] for source in node.args[:2])
        assert (x.dtype, x.channels, x.dynamic) == (scheme.activation_dtype, None, False)
        assert x.symmetric == scheme.symmetric_activations
        assert (w.dtype, w.is_weight, w.symmetric) == ("int8", True, True)
        assert w.channels == (node.meta["val"].shape[1] if scheme.per_channel_weights else None)


def test_as_many_inputs_of_every_add_are_int8_as_the_runtime_wants(traced: fx.GraphModule, scheme: QuantScheme) -> None:
    sites = sites_by_value(traced, scheme)
    adds = [node for node in traced.graph.nodes if graph.op_of(node) == "add"]
    wanted = 2 if scheme.add_inputs == "both" else 1
    assert adds
    assert all(sum(graph.name_of(source) in sites for source in node.args[:2]) == wanted for node in adds)


def test_the_logits_stay_float_where_they_can(traced: fx.GraphModule, scheme: QuantScheme) -> None:
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    (logits,) = output.all_input_nodes
    assert graph.op_of(logits) == "linear"
    assert (graph.name_of(logits) in sites_by_value(traced, scheme)) == scheme.quantized_logits


def test_what_only_moves_values_keeps_its_inputs_scale(traced: fx.GraphModule, scheme: QuantScheme) -> None:
    sites = sites_by_value(traced, scheme)
    moves = [node for node in traced.graph.nodes if graph.op_of(node) in scheme.passing_ops]
    assert moves
    for node in moves:
        assert sites[graph.name_of(node)].quantizer == sites[graph.name_of(node.args[0])].quantizer
    own = [site for site in sites.values() if site.value not in {graph.name_of(node) for node in moves}]
    assert all(site.quantizer == site.value for site in own)


def test_the_stem_pool_of_imagenet_networks_is_such_a_move() -> None:
    for scheme in FACTS.values():
        sites = sites_by_value(captured("torchvision", "resnet18", side=64), scheme)
        assert sites["maxpool"].quantizer == "relu"


def test_relu_hides_the_convolution_before_it() -> None:
    """The runtime computes both at once, so nothing stands between them."""
    sites = sites_by_value(captured("cifar", "resnet8"), SCHEMES["onnxruntime"])
    assert "conv1" not in sites
    assert "layer1.0.conv1" not in sites
    assert "layer1.0.conv2" in sites  # it feeds the add


def test_sites_become_modules_and_come_back() -> None:
    traced = captured("cifar", "resnet8")
    model = quantize(fused("cifar", "resnet8"), context(), pixels=False)
    assert isinstance(model, fx.GraphModule)
    assert fakequant.sites_of(model) == place(traced, SCHEMES["onnxruntime"])
    assert fakequant.sites_of(traced) == ()
    quantizers = {name for name, module in model.named_modules() if isinstance(module, fakequant.FakeQuantize)}
    assert len(quantizers) == len({site.quantizer for site in fakequant.sites_of(model)})


@pytest.fixture
def small() -> fx.GraphModule:
    return captured("cifar", "resnet8")


def weights(sites: tuple[Site, ...]) -> dict[str, str]:
    return {site.value.removesuffix(".weight"): site.dtype for site in sites if site.is_weight}


def layers_of(traced: fx.GraphModule) -> list[str]:
    return [graph.name_of(node) for node in traced.graph.nodes if graph.op_of(node) in ("conv", "linear")]


def test_weight_only_leaves_activations_alone(small: fx.GraphModule, scheme: QuantScheme) -> None:
    for bits in (8, 4):
        sites = place(small, scheme, precision="w8" if bits == 8 else "w4")
        assert weights(sites) == dict.fromkeys(layers_of(small), f"int{bits}")
        assert len(sites) == len(layers_of(small))


def test_four_bit_weights_keep_the_activations_of_eight(small: fx.GraphModule, scheme: QuantScheme) -> None:
    eight, four = place(small, scheme), place(small, scheme, weight_bits=4)
    assert weights(four) == dict.fromkeys(weights(eight), "int4")
    assert [site for site in four if not site.is_weight] == [site for site in eight if not site.is_weight]


def test_dynamic_quantizes_what_layers_read_and_nothing_else(small: fx.GraphModule, scheme: QuantScheme) -> None:
    sites = place(small, scheme, precision="dynamic")
    values = graph.values(small)
    read = {graph.name_of(values[layer].args[0]) for layer in layers_of(small)}
    activations = [site for site in sites if not site.is_weight]
    assert {site.value for site in activations} == read
    assert all(site.dynamic and site.dtype == "uint8" and site.quantizer == site.value for site in activations)
    assert weights(sites) == dict.fromkeys(layers_of(small), "int8")


def test_the_first_layer_and_the_classifier_can_stay_float(small: fx.GraphModule, scheme: QuantScheme) -> None:
    sites = place(small, scheme, first=False, classifier=False)
    assert weights(sites).keys() == set(layers_of(small)) - {"conv1", "linear"}
    values = {site.value for site in sites}
    assert not {"images", "reshape", "linear"} & values
    assert "relu" in values, "the second layer reads the first one's output"


def test_named_layers_and_adds_stay_float(small: fx.GraphModule, scheme: QuantScheme) -> None:
    every, named = place(small, scheme), ("layer1.0.conv2", "layer2.0.add")
    sites = place(small, scheme, float_layers=named)
    assert weights(every).keys() - weights(sites).keys() == {"layer1.0.conv2"}
    assert set(sites) < set(every)
    if scheme.add_inputs == "shortcut":
        gone = {site.value for site in set(every) - set(sites)}
        assert gone == {"layer1.0.conv2.weight", "layer1.0.relu", "layer2.0.shortcut"}


def test_an_unknown_layer_is_refused_with_the_nearest(small: fx.GraphModule) -> None:
    with pytest.raises(RecipeError, match=r"no layer layer1\.0\.conv3 .*'layer1\.0\.conv\d'"):
        place(small, SCHEMES["onnxruntime"], float_layers=["layer1.0.conv3"])


class Awkward(nn.Module):
    """A shared convolution, a transposed one, weights that are computed, and logits from a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.up = nn.Conv2d(3, 3, 1), nn.ConvTranspose2d(3, 3, 2, 2)
        self.raw = nn.Conv2d(3, 3, 1, bias=False)
        self.head = nn.Conv2d(3, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.up(self.shared(self.shared(images))) * 2 + 1
        x = nn.functional.conv2d(x, self.raw.weight - self.raw.weight.mean((1, 2, 3), keepdim=True))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1)).flatten(1)


def test_layers_that_cannot_be_quantized_are_named() -> None:
    traced = graph.capture(Awkward().eval(), (3, 8, 8))
    said = "\n".join(hindered(traced, SCHEMES["onnxruntime"]))
    assert len(said.splitlines()) == 3
    assert "up (conv_transpose2d) stays in float: only convolutions" in said
    assert "computed while the network runs" in said
    assert "head (conv) stays in float: it makes the logits, and onnxruntime" in said
    assert weights(place(traced, SCHEMES["onnxruntime"])) == {"shared": "int8"}
    assert weights(place(traced, SCHEMES["openvino"])) == {"shared": "int8", "head": "int8"}
    assert weights(place(traced, SCHEMES["onnxruntime"], precision="w8")) == {"shared": "int8", "head": "int8"}
    assert hindered(captured("cifar", "resnet8"), SCHEMES["onnxruntime"]) == ()


def test_a_shared_layer_runs_with_its_fake_quants() -> None:
    traced = graph.capture(Awkward().eval(), (3, 8, 8))
    fakequant.insert(traced, place(traced, SCHEMES["openvino"]))
    convs = [node for node in traced.graph.nodes if graph.op_of(node) == "conv"]
    shared = [node.args[1] for node in convs if graph.name_of(node).startswith("shared")]
    assert len(shared) == 2
    assert all(fakequant.quantizer_behind(traced, weight) is not None for weight in shared)


class Scaled(nn.Module):
    """A branch times a learned vector, which is reshaped on the way, beside an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gamma = nn.Conv2d(3, 3, 1), nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return (images + self.conv(images) * self.gamma.view(1, 3, 1, 1)).mean((2, 3))


def test_a_constant_is_no_activation(scheme: QuantScheme) -> None:
    traced = graph.capture(Scaled().eval(), (3, 8, 8))
    values = {site.value for site in place(traced, scheme)}
    assert {"images", "conv.weight"} <= values
    assert not any("reshape" in value or "gamma" in value for value in values)
