"""A captured graph: the same numbers, and names that last."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from rescompress import graph
from rescompress.context import Context
from rescompress.graph import capture, evaluating
from rescompress.pruning import prune
from tests.networks import captured, fused, noise, stock


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return stock("cifar", "resnet8")


@pytest.fixture(scope="module")
def traced(model: nn.Module) -> fx.GraphModule:
    return capture(model, (3, 32, 32))


def names(traced: fx.GraphModule) -> list[str]:
    return [graph.name_of(node) for node in traced.graph.nodes if "value_name" in node.meta]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_captured_network_computes_the_same_bits(model: nn.Module, traced: fx.GraphModule, batch: int) -> None:
    images = noise(model, batch)
    with torch.no_grad():
        assert torch.equal(traced(images), model(images))


def test_names_are_those_of_the_modules(traced: fx.GraphModule) -> None:
    found = names(traced)
    assert found[-1] == "linear"
    wanted = {"images", "conv1", "bn1", "relu", "layer1.0.conv2", "layer1.0.add", "layer1.0.relu_1", "conv1.weight"}
    assert wanted <= set(found)
    assert "layer2.0.shortcut" in found


def test_folding_leaves_all_other_names_as_they_are(traced: fx.GraphModule) -> None:
    unfolded = [name for name in names(traced) if "bn" not in name and "downsample.1" not in name]
    folded = [name for name in names(captured("cifar", "resnet8")) if not name.endswith("bias")]
    assert [name for name in unfolded if not name.endswith("bias")] == folded


@pytest.mark.parametrize(
    ("architecture", "size"),
    [("resnet18", {"side": 64}), pytest.param("resnet50", {"classes": 1000}, marks=pytest.mark.slow)],
)
def test_names_are_unique(architecture: str, size: dict[str, int]) -> None:
    found = names(captured("torchvision", architecture, **size))
    assert len(set(found)) == len(found)
    assert {"maxpool", "layer1.0.relu_1", "layer2.0.downsample.0"} <= set(found)


class Reused(nn.Module):
    """A ReLU that runs twice beside another whose name looks like the second run of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.relu_1, self.linear = nn.ReLU(), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.relu_1(self.relu(self.relu(images) - 1) - 1))


def test_names_are_unique_even_where_a_module_bears_a_numbered_name() -> None:
    traced = capture(Reused(), (3, 8, 8))
    assert len(set(names(traced))) == len(names(traced))
    assert len(graph.values(traced)) == len(names(traced))


def test_the_vocabulary_covers_a_fused_network() -> None:
    traced = captured("torchvision", "resnet18", side=64)
    ops = {graph.op_of(node) for node in traced.graph.nodes if node.op == "call_function"}
    assert ops == {"conv", "relu", "max_pool", "add", "avg_pool", "reshape", "linear"}


def test_parameters_are_shared_not_copied(model: nn.Module, traced: fx.GraphModule) -> None:
    assert {p.data_ptr() for p in traced.parameters()} == {p.data_ptr() for p in model.parameters()}
    node = graph.values(traced)["layer1.0.conv1.weight"]
    assert graph.tensor_of(traced, node).data_ptr() == model.layer1[0].conv1.weight.data_ptr()


def test_a_captured_network_comes_back_as_it_is(model: nn.Module, traced: fx.GraphModule) -> None:
    assert capture(traced, (3, 32, 32)) is traced
    assert graph.is_captured(traced)
    assert not graph.is_captured(model)
    assert not graph.is_captured(fx.symbolic_trace(nn.ReLU()))


def test_a_clone_shares_nothing(traced: fx.GraphModule) -> None:
    twin = graph.clone(traced)
    assert names(twin) == names(traced)
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in traced.parameters()}


def described(traced: fx.GraphModule) -> list[tuple[object, ...]]:
    """Everything of a graph but the names that PyTorch gives."""
    place = {node: number for number, node in enumerate(traced.graph.nodes)}
    rows = []
    for node in traced.graph.nodes:
        value = node.meta.get("val")
        layout = (str(value.shape), str(value.stride()), value.dtype) if isinstance(value, Tensor) else None
        args = str(fx.node.map_arg((node.args, node.kwargs), lambda source: place[source]))
        rows.append((node.op, str(node.target), args, layout, node.meta.get("value_name")))
    return rows


class InPlace(nn.Module):
    """Writes into a value that is read again, into one that is a view, or into one that nothing else sees."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.conv, self.linear, self.where = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), where

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        y = {"read again": x, "view": x[:, :2], "alone": self.conv(images)}[self.where].relu_()
        y = y.mul_(y.mean((2, 3), keepdim=True)) if self.where == "alone" else y
        return self.linear((x + y.mean(1, keepdim=True)).mean((2, 3)).flatten(1))


@pytest.mark.parametrize(
    "network",
    [
        *("torchvision resnet18", "read again", "view", "alone"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("se se_resnet18", "timm seresnext26t_32x4d")),
    ],
)
def test_ops_in_place_are_taken_away_as_pytorch_does_it(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fused(*network.split(), side=32) if "resnet" in network else InPlace(network).eval()
    quick = capture(graph.clone(model), (3, 16, 16))
    monkeypatch.setattr(graph, "_is_plain", lambda _: False)
    slow = capture(graph.clone(model), (3, 16, 16))
    assert described(quick) == described(slow)
    images = noise(model, 3, side=16)
    with torch.no_grad():
        assert torch.equal(quick(images), model(images))


def test_capture_keeps_modes_and_statistics() -> None:
    conv, norm, frozen = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4).eval()
    other = nn.Sequential(conv, norm, frozen)
    capture(other, (3, 8, 8))
    assert [module.training for module in other.modules()] == [True, True, True, False]
    assert torch.equal(norm.running_mean, torch.zeros(4))  # type: ignore[arg-type]


def evaluate_and_fail(model: nn.Module) -> None:
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError


@settings(max_examples=10)
@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_evaluating_gives_every_module_its_mode_back(modes: list[bool]) -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Dropout()))
    modules = list(model.modules())
    for module, mode in zip(modules, modes, strict=True):
        module.training = mode
    with pytest.raises(ZeroDivisionError):
        evaluate_and_fail(model)
    assert [module.training for module in modules] == modes


def test_inputs_leave_parameters_out() -> None:
    traced = captured("cifar", "resnet8")
    (add, *_) = (node for node in traced.graph.nodes if graph.op_of(node) == "add")
    assert [graph.name_of(node) for node in graph.inputs_of(add)] == ["layer1.0.conv2", "relu"]
    conv = graph.values(traced)["layer1.0.conv1"]
    assert [graph.name_of(node) for node in graph.inputs_of(conv)] == ["relu"]


def test_a_pruned_network_keeps_its_names() -> None:
    """So the sites of a scheme are the same however the channels were cut."""
    thin = prune(fused("cifar", "resnet8"), Context(), ratio=0.5, round_to=8)
    assert names(capture(thin, (3, 32, 32))) == names(captured("cifar", "resnet8"))
