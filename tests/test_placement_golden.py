"""Where the fake-quants go, value by value, in one network of each kind and under each runtime's scheme."""

import functools
from collections.abc import Callable

import pytest
import torch.nn.functional as F
from torch import Tensor, fx, nn

from rescompress import graph
from rescompress.context import Context
from rescompress.fusion import fuse
from rescompress.models.preact import PreActBlock
from rescompress.models.se import SEBasicBlock
from rescompress.placement import place
from rescompress.schemes import ONNXRUNTIME_ARM, SCHEMES
from tests.networks import captured, custom, enliven

pytestmark = pytest.mark.xdist_group("placement")


class Net(nn.Module):
    """Stem, two blocks of which the second projects, classifier."""

    def __init__(self, block: Callable[[int, int, int], nn.Module]) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), block(8, 8, 1), block(8, 16, 2)
        self.fc = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.b(self.a(F.relu(self.stem(images)))), 1).flatten(1))


class Grouped(nn.Module):
    """ResNeXt's bottleneck."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv3 = nn.Conv2d(cin, 8, 1), nn.Conv2d(8, cout, 1)
        self.conv2 = nn.Conv2d(8, 8, 3, stride, 1, groups=4)
        self.project = nn.Conv2d(cin, cout, 1, stride) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.project is None else self.project(x)
        return F.relu(kept + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))


class Nested(nn.Module):
    """An add whose input is an add: two branches beside one shortcut."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(cin, cout, 3, stride, 1), nn.Conv2d(cin, cout, 1, stride)
        self.project = nn.Conv2d(cin, cout, 1, stride) if cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.project(x) + self.one(x) + self.two(x))


NETWORKS: dict[str, Callable[[], fx.GraphModule]] = {
    "resnet": functools.partial(captured, "cifar", "resnet8", shortcut="B"),
    "option A": functools.partial(captured, "cifar", "resnet8", shortcut="A"),
    "stem pool": functools.partial(captured, "torchvision", "resnet18", side=64),
    "squeeze-excitation": functools.cache(lambda: tiny(lambda cin, cout, stride: SEBasicBlock(cin, cout, stride, 4))),
    "pre-activation": functools.cache(lambda: tiny(PreActBlock)),
    "resnext": functools.cache(lambda: tiny(Grouped)),
    "nested": functools.cache(lambda: tiny(Nested)),
}
END = "avg_pool, reshape<avg_pool"
GOLDEN: dict[tuple[str, str], str] = {
    ("resnet", "tensorrt"): f"""
        images, relu, layer1.0.relu, layer1.0.relu_1, layer2.0.relu, layer2.0.shortcut.0, layer2.0.relu_1,
        layer3.0.relu, layer3.0.shortcut.0, layer3.0.relu_1, {END}""",
    ("resnet", "onnxruntime"): f"""
        images, relu, layer1.0.relu, layer1.0.conv2, layer1.0.relu_1, layer2.0.relu, layer2.0.conv2,
        layer2.0.shortcut.0, layer2.0.relu_1, layer3.0.relu, layer3.0.conv2, layer3.0.shortcut.0, layer3.0.relu_1,
        {END}""",
    ("resnet", "coreml"): f"""
        images, relu, layer1.0.relu, layer1.0.conv2, layer1.0.relu_1, layer2.0.relu, layer2.0.conv2,
        layer2.0.shortcut.0, layer2.0.relu_1, layer3.0.relu, layer3.0.conv2, layer3.0.shortcut.0, layer3.0.relu_1,
        {END}""",
    ("option A", "tensorrt"): f"""
        images, relu, layer1.0.relu, layer1.0.relu_1, layer2.0.relu, layer2.0.shortcut, layer2.0.relu_1,
        layer3.0.relu, layer3.0.shortcut, layer3.0.relu_1, {END}""",
    ("stem pool", "tensorrt"): """
        images, relu, maxpool<relu, layer1.0.relu, layer1.0.relu_1, layer1.1.relu, layer1.1.relu_1,
        layer2.0.relu, layer2.0.downsample.0, layer2.0.relu_1, layer2.1.relu, layer2.1.relu_1,
        layer3.0.relu, layer3.0.downsample.0, layer3.0.relu_1, layer3.1.relu, layer3.1.relu_1,
        layer4.0.relu, layer4.0.downsample.0, layer4.0.relu_1, layer4.1.relu, layer4.1.relu_1, avgpool,
        reshape<avgpool""",
    ("stem pool", "onnxruntime"): """
        images, relu, maxpool<relu, layer1.0.relu, layer1.0.conv2, layer1.0.relu_1, layer1.1.relu, layer1.1.conv2,
        layer1.1.relu_1, layer2.0.relu, layer2.0.conv2, layer2.0.downsample.0, layer2.0.relu_1, layer2.1.relu,
        layer2.1.conv2, layer2.1.relu_1, layer3.0.relu, layer3.0.conv2, layer3.0.downsample.0, layer3.0.relu_1,
        layer3.1.relu, layer3.1.conv2, layer3.1.relu_1, layer4.0.relu, layer4.0.conv2, layer4.0.downsample.0,
        layer4.0.relu_1, layer4.1.relu, layer4.1.conv2, layer4.1.relu_1, avgpool, reshape<avgpool""",
    # The identity is INT8 for the next convolution anyway; the projection runs in one kernel with the add.
    ("squeeze-excitation", "tensorrt"): f"""
        images, relu, a.relu, a.se.avg_pool, a.se.reshape<a.se.avg_pool, a.se.fc.1, a.relu_1,
        b.relu, b.se.avg_pool, b.se.reshape<b.se.avg_pool, b.se.fc.1, b.se.mul, b.relu_1, {END}""",
    # What a gate's last layer reads stays float, or no convolution would run in INT8.
    ("squeeze-excitation", "openvino"): f"""
        images, relu, a.relu, a.conv2, a.se.avg_pool, a.se.reshape<a.se.avg_pool, a.se.unsqueeze_1, a.relu_1,
        b.relu, b.conv2, b.se.avg_pool, b.se.reshape<b.se.avg_pool, b.se.unsqueeze_1, b.se.mul, b.relu_1, {END}""",
    ("squeeze-excitation", "coreml"): f"""
        images, relu, a.relu, a.conv2, a.se.avg_pool, a.se.reshape<a.se.avg_pool, a.se.fc.1, a.se.mul, a.relu_1,
        b.downsample.0, b.relu, b.conv2, b.se.avg_pool, b.se.reshape<b.se.avg_pool, b.se.fc.1, b.se.mul, b.relu_1,
        {END}""",
    # The sigmoid's one grid goes on to what it multiplies.
    ("squeeze-excitation", "litert"): f"""
        images, relu, a.relu, a.conv2, a.se.avg_pool, a.se.reshape<a.se.avg_pool, a.se.fc.1, a.se.fc.2, a.se.fc.3,
        a.se.slice<a.se.fc.3, a.se.unsqueeze<a.se.fc.3, a.se.unsqueeze_1<a.se.fc.3, a.se.mul, a.relu_1,
        b.downsample.0, b.relu, b.conv2, b.se.avg_pool, b.se.reshape<b.se.avg_pool, b.se.fc.1, b.se.fc.2, b.se.fc.3,
        b.se.slice<b.se.fc.3, b.se.unsqueeze<b.se.fc.3, b.se.unsqueeze_1<b.se.fc.3, b.se.mul, b.relu_1, {END}, fc""",
    ("pre-activation", "tensorrt"): f"""
        images, relu, a.relu, a.relu_1, a.add, b.relu, b.shortcut.0, b.relu_1, b.add, {END}""",
    ("pre-activation", "onnxruntime"): f"""
        images, relu, a.relu, a.relu_1, a.conv2, a.add, b.relu, b.shortcut.0, b.relu_1, b.conv2, b.add, {END}""",
    ("resnext", "tensorrt"): f"""
        images, relu, a.relu, a.relu_1, a.relu_2, b.project, b.relu, b.relu_1, b.relu_2, {END}""",
    ("resnext", "openvino"): f"""
        images, relu, a.relu, a.relu_1, a.relu_2, b.project, b.relu, b.relu_1, b.relu_2, {END}""",
    ("nested", "tensorrt"): f"""
        images, relu, a.add, a.relu, b.one, b.add, b.relu, {END}""",
    ("nested", "coreml"): f"""
        images, relu, a.one, a.add, a.two, a.relu, b.project, b.one, b.add, b.two, b.relu, {END}""",
}


def tiny(block: Callable[[int, int, int], nn.Module]) -> fx.GraphModule:
    return graph.capture(fuse(custom(enliven(Net(block)), side=16), Context()), (3, 16, 16))


def activations(traced: fx.GraphModule, runtime: str) -> list[str]:
    sites = [site for site in place(traced, SCHEMES[runtime]) if not site.is_weight]
    return [site.value if site.value == site.quantizer else f"{site.value}<{site.quantizer}" for site in sites]


@pytest.mark.parametrize(("network", "runtime"), GOLDEN)
def test_the_values_that_become_int8(network: str, runtime: str) -> None:
    wanted = [name.strip() for name in GOLDEN[network, runtime].split(",")]
    assert activations(NETWORKS[network](), runtime) == wanted


@pytest.mark.parametrize("network", ["resnet", "option A", "resnext", "nested"])
def test_schemes_that_agree_where_nothing_is_multiplied(network: str) -> None:
    traced = NETWORKS[network]()
    assert activations(traced, "tensorrt") == activations(traced, "openvino")
    assert activations(traced, "litert") == [*activations(traced, "onnxruntime"), classifier(traced)]


@pytest.mark.parametrize("network", NETWORKS)
def test_arm_differs_in_the_type_alone(network: str) -> None:
    traced = NETWORKS[network]()
    x86, arm = (
        {site.value: site for site in place(traced, scheme) if not site.is_weight}
        for scheme in (SCHEMES["onnxruntime"], ONNXRUNTIME_ARM)
    )
    assert x86.keys() == arm.keys()
    assert {site.dtype for site in x86.values()} == {"uint8"}
    assert {site.dtype for site in arm.values()} == {"int8"}
    assert not any(site.symmetric for site in arm.values())


@pytest.mark.parametrize("network", NETWORKS)
def test_tensorrt_finds_nothing_between_a_convolution_and_the_add_that_it_computes(network: str) -> None:
    """One input of each add is INT8, and of two convolutions exactly one."""
    traced = NETWORKS[network]()
    integer = {site.value for site in place(traced, SCHEMES["tensorrt"])}
    adds = [node for node in traced.graph.nodes if graph.op_of(node) == "add"]
    assert adds
    for node in adds:
        sources = graph.inputs_of(node)
        own = [source for source in sources if graph.op_of(source) == "conv" and len(source.users) == 1]
        assert any(graph.name_of(source) in integer for source in sources)
        assert sum(graph.name_of(source) in integer for source in own) == max(0, len(own) - 1)


def classifier(traced: fx.GraphModule) -> str:
    return graph.name_of([node for node in traced.graph.nodes if graph.op_of(node) == "linear"][-1])
