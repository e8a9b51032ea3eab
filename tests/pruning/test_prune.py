"""Pruning is exact: the smaller network answers like the whole one with the same channels silenced."""

import copy
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rescompress import models, progress
from rescompress.context import Context
from rescompress.errors import InputRefused, RecipeError
from rescompress.layers import PadShortcut, width_of
from rescompress.pruning import Cut, Group, cut_channels, find_groups, prune
from tests.networks import custom, fused, noise, quantized, same, snapshot, stock

pytestmark = pytest.mark.xdist_group("prune")

SMALL = {
    "cifar resnet8 A": lambda: stock("cifar", "resnet8"),
    "cifar resnet8 B": lambda: stock("cifar", "resnet8", shortcut="B"),
    "cifar resnet8 A, fused": lambda: fused("cifar", "resnet8"),
    "cifar resnet8 B, fused": lambda: fused("cifar", "resnet8", shortcut="B"),
}
WIDE = {
    "torchvision resnet18": lambda: stock("torchvision", "resnet18", side=64),
    "torchvision resnet50": lambda: stock("torchvision", "resnet50", side=64),
    "torchvision resnext50": lambda: stock("torchvision", "resnext50_32x4d", side=64),
    "timm resnet50_gn": lambda: stock("timm", "resnet50_gn", side=64),
    "timm seresnext26t": lambda: stock("timm", "seresnext26t_32x4d", side=64),
    "timm resnetv2_18": lambda: stock("timm", "resnetv2_18", side=64),
    "huggingface basic": lambda: stock("huggingface", "ResNetForImageClassification", side=64, **BASIC),
    "preact resnet20": lambda: stock("preact", "preact_resnet20"),
    "wide resnet": lambda: stock("wide_resnet", "wrn_16_4"),
    "se resnet20": lambda: stock("se", "se_resnet20"),
    "keras": lambda: stock("keras", "ResNet50", side=64),
}
BASIC = {"layer_type": "basic", "hidden_sizes": (64, 128), "depths": (1, 1)}
NETWORKS = {**SMALL, **WIDE}
HEAVY = ("torchvision resnet50", "keras", "timm resnetv2_18", "huggingface basic")
WIDE_ONES = [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in WIDE]


@cache
def groups_of(name: str) -> tuple[Group, ...]:
    model = NETWORKS[name]()
    return find_groups(model, models.spec_of(model).input_shape)[0]


@cache
def doubled(name: str) -> nn.Module:
    """In double precision, so that the order of a sum doesn't show."""
    return copy.deepcopy(NETWORKS[name]()).double()


def silenced(model: nn.Module, cuts: Sequence[Cut]) -> nn.Module:
    """A copy of the whole network in which each channel that leaves is zero wherever it is made."""
    silent = copy.deepcopy(model)
    for cut in cuts:
        gone = [channel for channel in range(cut.group.channels) if channel not in set(cut.kept)]
        for member in cut.group.members:
            layer = silent.get_submodule(member.layer)
            places = [place for channel in gone for place in member.places[channel]]
            if member.side == "outputs":
                for tensor in (layer.weight, getattr(layer, "bias", None)):
                    if tensor is not None:
                        tensor.data[places] = 0
    return silent


def some_cuts(groups: Sequence[Group], most: float, seed: int) -> list[Cut]:
    """Any channels of each group, from one to so large a share."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for group in groups:
        width = int(torch.randint(max(1, round(most * group.channels)), (), generator=generator)) + 1
        kept = torch.randperm(group.channels, generator=generator)[:width]
        made.append(Cut(group, tuple(sorted(kept.tolist()))))
    return made


def difference(model: nn.Module, chosen: Sequence[Cut]) -> float:
    """Largest difference of a logit between the pruned and the silenced network, against the largest logit."""
    images = noise(model).to(next(model.parameters()).dtype)
    with torch.no_grad():
        expected = silenced(model, chosen)(images)
        # A padded shortcut makes its zeros and ones anew, in single precision.
        answer = cut_channels(model, chosen).to(images.dtype)(images)
    return float((answer - expected).abs().max() / (1 + expected.abs().max()))


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=12)
@given(most=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_pruning_equals_silencing_the_same_channels(name: str, most: float, seed: int) -> None:
    assert difference(doubled(name), some_cuts(groups_of(name), most, seed)) <= 1e-9


@pytest.mark.parametrize("name", WIDE_ONES)
def test_pruning_a_wide_network_equals_silencing(name: str) -> None:
    assert difference(WIDE[name](), some_cuts(groups_of(name), 1.0, seed=0)) <= 1e-4


@pytest.mark.parametrize("name", [*SMALL, *WIDE_ONES])
def test_groups_hold_every_channel_once(name: str) -> None:
    model = NETWORKS[name]()
    held: dict[tuple[str, str], list[int]] = {}
    for group in groups_of(name):
        for member in group.members:
            assert len(member.places) == group.channels
            held.setdefault((member.layer, member.side), []).extend(
                place for places in member.places for place in places
            )
    assert {side: sorted(places) for side, places in held.items()} == cuttable(model)


def cuttable(model: nn.Module) -> dict[tuple[str, str], list[int]]:
    """Every channel but the stem's inputs and the classes; a grouped convolution counts on its output side."""
    whole: dict[tuple[str, str], list[int]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv2d, PadShortcut)):
            whole[name, "outputs"] = list(range(layer.out_channels))
            if layer.in_channels != 3 and getattr(layer, "groups", 1) == 1:
                whole[name, "inputs"] = list(range(layer.in_channels))
        elif isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm)):
            whole[name, "outputs"] = list(range(width_of(layer, "outputs")))
        elif isinstance(layer, nn.Linear):
            whole[name, "inputs"] = list(range(layer.in_features))
            if layer.out_features != 10:
                whole[name, "outputs"] = list(range(layer.out_features))
    return {side: places for side, places in whole.items() if side[0] != "head.fc" or side[1] == "inputs"}


def test_groups_come_in_the_same_order_every_time() -> None:
    name = "cifar resnet8 B"
    assert find_groups(NETWORKS[name](), (3, 32, 32))[0] == groups_of(name)


def test_a_grouped_convolution_loses_whole_groups() -> None:
    whole = NETWORKS["torchvision resnext50"]()
    pruned = prune(whole, Context(), ratio=0.5)
    for name, layer in whole.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            now = pruned.get_submodule(name)
            assert now.groups == now.in_channels // (layer.in_channels // 32)
            assert now.out_channels == now.in_channels == layer.out_channels // 2
    assert models.predict(pruned, [noise(whole)]).shape == (2, 10)


def test_channels_behind_a_padded_shortcut_are_cut() -> None:
    with progress.gathered() as notes:
        pruned = prune(stock("cifar", "resnet8"), Context(), ratio=0.5, round_to=4)
    assert len(notes) == 2  # what was cut, and that there are no images
    assert [pruned.layer1[0].conv2.out_channels, pruned.layer2[0].shortcut.out_channels] == [8, 16]
    assert pruned.linear.in_features == 32


def test_layers_that_are_named_keep_their_outputs() -> None:
    whole = NETWORKS["torchvision resnet18"]()
    pruned = prune(whole, Context(), ratio=0.5, keep=("layer1.*", "*.conv1"))
    assert pruned.layer1[0].conv2.out_channels == 64
    assert pruned.layer2[0].conv1.out_channels == 128
    assert pruned.layer2[0].conv2.out_channels == 64


class Depthwise(nn.Module):
    """Every channel of it is tied to a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 6, 3, groups=3), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.conv(images).mean((2, 3)))


@pytest.mark.parametrize(
    "make", [lambda: custom(Depthwise()), lambda: quantized("cifar", "resnet8")], ids=["grouped", "quantized"]
)
def test_a_network_without_channels_to_cut_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(InputRefused, match="No channel of this model can be cut"):
        prune(make(), Context())


class Hidden(nn.Module):
    """A dependency that no graph of layers shows: channels padded in a function, or a fixed filter for each channel."""

    def __init__(self, padded: bool) -> None:
        super().__init__()
        self.padded = padded
        self.stem, self.inner = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.outer, self.linear = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 3)
        self.register_buffer("blur", torch.full((32, 1, 3, 3), 1 / 9))

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.stem(images))
        y = torch.relu(self.outer(torch.relu(self.inner(x))))
        y = y + F.pad(x, (0, 0, 0, 0, 8, 8)) if self.padded else F.conv2d(y, self.blur, groups=32)
        return self.linear(y.mean((2, 3)))


@pytest.mark.parametrize(("padded", "told"), [(True, "stem keeps its channels"), (False, "outer keeps its channels")])
def test_a_dependency_that_does_not_show_is_never_cut_wrong(padded: bool, told: str) -> None:
    model = custom(Hidden(padded))
    with progress.gathered() as notes:
        pruned = prune(model, Context(), ratio=0.5, round_to=4)
    assert told in " ".join(notes)
    assert pruned.inner.out_channels == 16
    assert pruned.outer.out_channels == 32
    assert models.predict(pruned, [noise(model)]).shape == (2, 3)


def test_prune_keeps_the_best_channels_of_each_group() -> None:
    model = copy.deepcopy(stock("cifar", "resnet8"))
    strong = [1, 2, 5, 8, 11, 12, 14, 15]
    with torch.no_grad():
        model.layer1[0].conv1.weight[strong] *= 10
    pruned = prune(model, Context(), ratio=0.5, round_to=8)
    assert torch.equal(pruned.layer1[0].bn1.running_mean, model.layer1[0].bn1.running_mean[strong])


def test_the_argument_is_not_edited() -> None:
    model = copy.deepcopy(stock("cifar", "resnet8")).train()
    before = snapshot(model)
    pruned = prune(model, Context(), round_to=8)
    assert same(before, snapshot(model))
    assert models.spec_of(pruned) == models.spec_of(model)
    assert pruned.training
    assert all(parameter.requires_grad for parameter in pruned.parameters())


def test_frozen_weights_stay_frozen() -> None:
    model = copy.deepcopy(stock("cifar", "resnet8"))
    model.conv1.weight.requires_grad_(False)
    pruned = prune(model, Context(), ratio=0.5, round_to=8)
    assert [name for name, parameter in pruned.named_parameters() if not parameter.requires_grad] == ["conv1.weight"]


@pytest.mark.parametrize(
    "knobs",
    [
        *({"ratio": ratio} for ratio in (0, 1, -0.1, 1.5, float("nan"), "most")),
        *({"round_to": multiple} for multiple in (0, 129, 2.5)),
        *({"importance": name} for name in ("l11", {"l1": {"power": 2}}, {"l1": {}, "l2": {}}, 3)),
        {"raito": 0.3},
    ],
)
def test_a_knob_out_of_range_is_refused(knobs: dict[str, object]) -> None:
    with pytest.raises(RecipeError) as refusal:
        prune(stock("cifar", "resnet8"), Context(), **knobs)  # type: ignore[arg-type]
    assert refusal.value.exit_code == 2
    assert refusal.value.fact.endswith(".")
    assert refusal.value.remedy.endswith((".", "?", "…"))
