"""Whatever stages did to a network, in whatever order, a file brings back to the bit; what else was done is refused."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rescompress import checkpoint, models
from rescompress.context import Context
from rescompress.edits import edits
from rescompress.errors import InputRefused
from rescompress.factorization import METHODS, ByEnergy, chain, factorize, find_convolutions
from rescompress.fusion import fold, foldable, fuse
from rescompress.layers import without_norm
from rescompress.pruning import Cut, Group, cut_channels, find_groups, prune
from rescompress.pruning.groups import Member
from tests.networks import noise, stock
from tests.pruning.test_prune import some_cuts

SPLITS = ("spatial_svd", "channel_svd", "tucker2", "cp")
GROUPED = "tests.test_edits:grouped"
QUICK = ("cifar resnet8 A", "grouped")
ALL = (*QUICK, "cifar resnet8 B", "se se_resnet20", "preact preact_resnet20")


class Grouped(nn.Module):
    """A stem, a grouped convolution beside a projection, and both kinds of norm."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.many, self.bn_many = nn.Conv2d(16, 16, 3, 1, 1, groups=4), nn.BatchNorm2d(16)
        self.wide, self.norm = nn.Conv2d(16, 24, 1, bias=False), nn.GroupNorm(6, 24)
        self.side, self.bn_side = nn.Conv2d(16, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.fc = nn.Linear(24, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(images)))
        y = F.relu(self.bn_many(self.many(x)))
        y = F.relu(self.norm(self.wide(y)) + self.bn_side(self.side(x)))
        return self.fc(y.mean((2, 3)))


def grouped(classes: int) -> nn.Module:
    return Grouped(classes)


@pytest.fixture(autouse=True)
def allowed() -> None:
    """Files here name a function of this one."""
    models.built_by(GROUPED, 10)


def network(name: str) -> nn.Module:
    if name == "grouped":
        return stock("builder", GROUPED, side=16)
    family, architecture, *shortcut = name.split()
    return stock(family, architecture, side=16, **({"shortcut": shortcut[0]} if shortcut else {}))


@dataclass(frozen=True)
class State:
    """A network on its way, and what is known of it without looking again: its groups, and pairs still to be folded."""

    model: nn.Module
    groups: tuple[Group, ...]
    pairs: tuple[tuple[str, str], ...]


@cache
def start(name: str) -> State:
    model = network(name)
    return State(model, find_groups(model, models.spec_of(model).input_shape)[0], tuple(foldable(model)))


def cut(state: State, most: float, seed: int) -> State:
    """Any channels leave."""
    cuts = some_cuts(state.groups, most, seed)
    return replace(state, model=cut_channels(state.model, cuts), groups=tuple(map(left_of, cuts)))


def left_of(made: Cut) -> Group:
    """What of a group stays, its places counted anew."""
    members = []
    for member in made.group.members:
        places = [member.places[channel] for channel in made.kept]
        new = {old: number for number, old in enumerate(sorted(place for each in places for place in each))}
        members.append(replace(member, places=tuple(tuple(new[place] for place in each) for each in places)))
    return replace(made.group, channels=len(made.kept), members=tuple(members))


def split(state: State, energy: float, seed: int) -> State:
    """Some convolutions become chains, each by a method drawn for it, whether that is cheaper or not."""
    model, groups, pairs = copy.deepcopy(state.model), list(state.groups), list(state.pairs)
    generator = torch.Generator().manual_seed(seed)
    for name in find_convolutions(model)[0]:
        drawn = int(torch.randint(2 * len(SPLITS), (), generator=generator))
        if drawn >= len(SPLITS):
            continue
        conv = model.get_submodule(name)
        way = METHODS.bind(SPLITS[drawn])(conv)
        factors = way.at(way.ranks(ByEnergy(energy)))
        model.set_submodule(name, chain(conv, factors))
        first, last = f"{name}.0", f"{name}.{len(factors) - 1}"
        groups = [replace(group, members=tuple(moved(m, name, first, last) for m in group.members)) for group in groups]
        ends = [place for place, factor in enumerate(factors) if factor.groups == 1]
        groups += [within(name, one, other, len(factors[one].weight)) for one, other in pairwise(ends)]
        pairs = [(last if conv_name == name else conv_name, norm) for conv_name, norm in pairs]
    return State(model, tuple(groups), tuple(pairs))


def moved(member: Member, name: str, first: str, last: str) -> Member:
    return replace(member, layer=first if member.side == "inputs" else last) if member.layer == name else member


def within(name: str, one: int, other: int, rank: int) -> Group:
    """The channels between two layers of a chain; what stands between them goes channel by channel."""
    places = tuple((channel,) for channel in range(rank))
    between = [Member(f"{name}.{k}", side, places) for k in range(one + 1, other) for side in ("inputs", "outputs")]
    ends = Member(f"{name}.{one}", "outputs", places), Member(f"{name}.{other}", "inputs", places)
    return Group(rank, (ends[0], *between, ends[1]))


def melt(state: State, _: float = 0, __: int = 0) -> State:
    """Every BatchNorm that follows a convolution goes into it."""
    model, gone = copy.deepcopy(state.model), {norm for _, norm in state.pairs}
    for conv, norm in state.pairs:
        module = model.get_submodule(norm)
        fold(model.get_submodule(conv), module)
        model.set_submodule(norm, without_norm(module))
    groups = [replace(g, members=tuple(m for m in g.members if m.layer not in gone)) for g in state.groups]
    return State(model, tuple(groups), ())


def comes_back(model: nn.Module, folder: Path) -> None:
    first, second = folder / "first.safetensors", folder / "second.safetensors"
    checkpoint.save(model, first)
    loaded = checkpoint.load(first)
    images = noise(model)
    assert torch.equal(models.predict(loaded, [images]), models.predict(model, [images]))
    checkpoint.save(loaded, second)
    assert first.read_bytes() == second.read_bytes()


STEPS: dict[str, Callable[[State, float, int], State]] = {"cut": cut, "split": split, "melt": melt}
LISTS = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.floats(0, 1), st.integers(0, 2**32)), max_size=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("edits")


def take(name: str, steps: Sequence[tuple[str, float, int]]) -> nn.Module:
    state = start(name)
    for step, share, seed in steps:
        state = STEPS[step](state, max(share, 0.01), seed)
    return state.model


@settings(max_examples=20)
@given(name=st.sampled_from(QUICK), steps=LISTS)
def test_any_list_of_edits_comes_back(folder: Path, name: str, steps: list[tuple[str, float, int]]) -> None:
    comes_back(take(name, steps), folder)


@pytest.mark.slow
@settings(max_examples=1000)
@given(name=st.sampled_from(ALL), steps=LISTS)
def test_a_thousand_lists_of_edits_come_back(folder: Path, name: str, steps: list[tuple[str, float, int]]) -> None:
    comes_back(take(name, steps), folder)


def staged(model: nn.Module, steps: Sequence[tuple[str, float, str]]) -> nn.Module:
    """The stages one after another; one that finds nothing to do is passed over."""
    for step, share, method in steps:
        try:
            if step == "prune":
                model = prune(model, Context(), ratio=share, round_to=1)
            elif step == "factorize":
                model = factorize(model, Context(), method=method, energy=share, round_to=1)
            else:
                model = fuse(model, Context())
        except InputRefused as error:
            if not error.fact.startswith(("No layer gets cheaper", "No convolution")):
                raise
    return model


ORDERS = (
    (("prune", 0.4), ("prune", 0.7), ("fuse", 0)),
    (("factorize", 0.4), ("prune", 0.6), ("fuse", 0)),
    (("fuse", 0), ("prune", 0.5), ("factorize", 0.5)),
)


@pytest.mark.parametrize("steps", ORDERS, ids=str)
def test_what_stages_made_comes_back(folder: Path, steps: Any) -> None:
    comes_back(staged(network("grouped"), [(*step, "tucker2") for step in steps]), folder)


@pytest.mark.slow
@settings(max_examples=8)
@given(
    name=st.sampled_from(ALL[:3]),
    steps=st.permutations(("prune", "prune", "factorize", "fuse")),
    share=st.floats(0.2, 0.95),
    method=st.sampled_from(SPLITS),
)
def test_what_stages_made_in_any_order_comes_back(folder: Path, name: str, steps: Any, share: Any, method: str) -> None:
    comes_back(staged(network(name), [(step, share, method) for step in steps]), folder)


def test_the_last_group_of_a_grouped_convolution_is_cut_like_any(folder: Path) -> None:
    once = prune(network("grouped"), Context(), ratio=0.9, round_to=4)
    assert (once.many.groups, once.many.out_channels) == (1, 4)
    twice = prune(once, Context(), ratio=0.5, round_to=1)
    assert (twice.many.in_channels, twice.many.out_channels) == (2, 2)
    comes_back(once, folder)
    comes_back(twice, folder)


@pytest.mark.parametrize(
    ("family", "architecture", "arguments"),
    [
        ("cifar", "resnet8", {"shortcut": "B"}),
        ("preact", "preact_resnet20", {}),
        ("se", "se_resnet20", {"reduction": 8}),
        ("wide_resnet", "wrn_16_4", {}),
        ("torchvision", "resnet18", {"replace_stride_with_dilation": (False, False, False)}),
        ("keras", "ResNet50", {}),
    ],
)
def test_a_stock_network_has_no_edits(family: str, architecture: str, arguments: dict[str, Any]) -> None:
    spec = models.spec(family, architecture, 10, **arguments)
    assert edits(models.describe(models.outline(spec), spec)) == ()


def assign(module: str, **attributes: object) -> Callable[[nn.Module], object]:
    return lambda model: [setattr(model.get_submodule(module), name, value) for name, value in attributes.items()]


CHANGES: dict[str, tuple[str, str, Callable[[nn.Module], object]]] = {
    "a stride": ("cifar resnet8 A", "layer1.0.conv1", assign("layer1.0.conv1", stride=(2, 2))),
    "a padding": ("cifar resnet8 A", "layer1.0.conv1", assign("layer1.0.conv1", padding_mode="reflect")),
    "a dilation": ("cifar resnet8 A", "conv1", assign("conv1", dilation=(2, 2), padding=(2, 2))),
    "a shortcut's stride": ("cifar resnet8 A", "layer2.0.shortcut", assign("layer2.0.shortcut", stride=1)),
    "an epsilon": ("cifar resnet8 A", "layer2.0.bn1", assign("layer2.0.bn1", eps=1e-3)),
    "a classifier without bias": ("cifar resnet8 A", "linear", assign("linear", bias=None)),
    "an activation": ("se se_resnet20", "layer1.0.se.fc.1", assign("layer1.0.se.fc", **{"1": nn.GELU()})),
    "a layer more": ("se se_resnet20", "layer1.3", lambda model: model.layer1.append(nn.ReLU())),
    "a layer less": ("cifar resnet8 A", "layer1.0.bn1", lambda model: delattr(model.layer1[0], "bn1")),
    "a block of another kind": ("cifar resnet8 A", "layer1.0", assign("layer1", **{"0": nn.ReLU()})),
    "an activation in a chain": (
        "cifar resnet8 A",
        "conv1",
        assign("", conv1=nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 16, 1))),
    ),
    "a mirrored link of a chain": (
        "cifar resnet8 A",
        "conv1",
        assign("", conv1=nn.Sequential(nn.Conv2d(3, 4, 3, padding_mode="reflect"), nn.Conv2d(4, 16, 1))),
    ),
    "an epsilon of a group norm": ("grouped", "norm", assign("norm", eps=1e-3)),
    "a bias less": ("grouped", "many", assign("many", bias=None)),
    "other groups": ("grouped", "many", assign("", many=nn.Conv2d(16, 16, 3, 1, 1, groups=2))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_that_no_stage_makes_is_refused_by_name(change: str, tmp_path: Path) -> None:
    name, layer, apply = CHANGES[change]
    model = copy.deepcopy(network(name))
    apply(model)
    with pytest.raises(InputRefused) as caught:
        checkpoint.save(model, tmp_path / "changed.safetensors")
    assert caught.value.fact.startswith(f"{layer} is ")
    assert list(tmp_path.iterdir()) == []
