"""Whole blocks leave: only those that can, the least missed first, and the network answers as with them silenced."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rescompress import checkpoint, models, progress, recipe
from rescompress.context import Context
from rescompress.cost import total_cost
from rescompress.errors import InputRefused, RecipeError
from rescompress.fusion import fuse
from rescompress.pruning import prune
from rescompress.pruning.blocks import bypass, find_blocks
from rescompress.pruning.depth import DepthPlanner
from rescompress.pruning.goals import Goal
from rescompress.pruning.sparsity import Sparsity
from rescompress.quantization import quantize
from rescompress.training import Schedule
from tests.networks import context, custom, noise, same, snapshot, stock
from tests.pruning.test_latency import Staircase, install

IDENTITY = {
    ("cifar", "resnet20"): ["1.0", "1.1", "1.2", "2.1", "2.2", "3.1", "3.2"],
    ("se", "se_resnet20"): ["1.0", "1.1", "1.2", "2.1", "2.2", "3.1", "3.2"],
    ("preact", "preact_resnet20"): ["1.0", "1.1", "1.2", "2.1", "2.2", "3.1", "3.2"],
    ("torchvision", "resnet18"): ["1.0", "1.1", "2.1", "3.1", "4.1"],
    ("timm", "seresnet50"): ["1.1", "1.2", *(f"{s}.{b}" for s, n in ((2, 4), (3, 6), (4, 3)) for b in range(1, n))],
}
"""Blocks whose shortcut is the identity: not those that widen, and no squeeze-excitation in them."""
ATTRIBUTES = {"macs": "macs", "params": "params", "bytes": "weight_bytes"}


def blocks(model: nn.Module) -> tuple[str, ...]:
    return find_blocks(model, models.spec_of(model).input_shape)


def silence(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """The whole network with every weight of these blocks zero."""
    silent = copy.deepcopy(model)
    for name in names:
        for parameter in silent.get_submodule(name).parameters():
            parameter.data.zero_()
    return silent


def gone(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if name.count(".") == 1 and isinstance(module, nn.Identity)]


@pytest.mark.parametrize(("family", "architecture"), IDENTITY)
def test_blocks_are_those_that_hand_on_what_comes(family: str, architecture: str) -> None:
    side = None if family in ("cifar", "se", "preact") else 64
    expected = [f"layer{name}" for name in IDENTITY[family, architecture]]
    assert list(blocks(stock(family, architecture, side=side))) == expected
    fresh = models.build(models.spec(family, architecture, 10))  # some start with branches that are zero
    assert list(blocks(fresh.eval())) == expected


def test_other_makers_blocks_are_found_by_their_own_names() -> None:
    model = stock("huggingface", "ResNetForImageClassification", side=64)
    assert len(blocks(model)) == 12
    assert blocks(model)[0] == "resnet.encoder.stages.0.layers.1"
    short, silent = (models.predict(each(model, blocks(model)), [noise(model)]) for each in (bypass, silence))
    assert torch.equal(short, silent)


@settings(max_examples=12)
@given(name=st.sampled_from(["cifar", "se", "preact"]), chosen=st.sets(st.integers(0, 6), min_size=1))
def test_a_network_without_blocks_answers_as_with_them_silenced(name: str, chosen: set[int]) -> None:
    model = stock(name, {"cifar": "resnet20"}.get(name, f"{name}_resnet20"))
    names = [blocks(model)[place] for place in chosen]
    short, silent = (models.predict(each(model, names), [noise(model)]) for each in (bypass, silence))
    assert torch.equal(short, silent)
    assert not torch.equal(short, models.predict(model, [noise(model)]))


class Odd(nn.Module):
    """A block that runs twice, one whose shortcut doubles, one whose ReLU changes what comes, and a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.twice, self.doubled, self.plain = (nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1)) for _ in range(3))
        self.signed, self.block, self.fc = Residual(), Residual(), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem(images))
        x = self.signed(self.plain(self.doubled(x) + 2 * x))
        x = F.relu(x + self.twice(self.twice(x)))
        return self.fc(self.block(x).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x))


def test_what_only_looks_like_a_block_stays() -> None:
    assert blocks(custom(Odd(), side=8)) == ("block",)


@pytest.mark.parametrize("kind", ["macs", "params", "bytes"])
def test_a_target_is_met_and_widths_stay(kind: str) -> None:
    whole = stock("cifar", "resnet20")
    before = snapshot(whole)
    with progress.gathered() as notes:
        short = prune(whole, context(), unit="blocks", **{kind: 0.7})
    share = getattr(total_cost(short), ATTRIBUTES[kind]) / getattr(total_cost(whole), ATTRIBUTES[kind])
    assert 0.4 <= share <= 0.7
    stays = dict(short.named_modules())
    assert all(
        stays[name].weight.shape == layer.weight.shape
        for name, layer in whole.named_modules()
        if isinstance(layer, nn.Conv2d) and name in stays
    )
    assert gone(short)[0] in notes[-1]
    assert f"leave, {2 * len(gone(short))} of 22 layers; " in notes[-1]
    assert same(before, snapshot(whole))


def test_the_block_that_does_nothing_leaves_first() -> None:
    whole = copy.deepcopy(stock("cifar", "resnet20"))
    with torch.no_grad():
        for parameter in whole.layer3[1].bn2.parameters():
            parameter.zero_()
    assert gone(prune(whole, context(), unit="blocks", ratio=0.1)) == ["layer3.1"]


def test_the_order_does_not_depend_on_the_goal() -> None:
    planner = DepthPlanner(stock("cifar", "resnet20"), context(), (), "ratio")
    found = [planner.plan(Goal("ratio", ratio)).gone for ratio in (0.6, 0.3, 0.8)]
    assert [len(each) for each in found] == [5, 3, 6]
    assert found[2][:5] == found[0]
    assert found[0][:3] == found[1]
    assert set(planner.fastest().gone) == set(planner.blocks)


def test_layers_that_are_named_keep_their_block() -> None:
    whole = stock("cifar", "resnet20")
    short = prune(whole, context(), unit="blocks", ratio=0.9, keep=("layer1.*", "layer2.1.conv2"))
    assert gone(short) == ["layer2.2", "layer3.1", "layer3.2"]


def test_several_cuts_reach_the_same_target() -> None:
    whole, between = stock("cifar", "resnet20"), Schedule(epochs=1, batch=16, lr=0.01)
    short = prune(whole, context(), unit="blocks", ratio=0.55, steps=2, between=between)
    assert len(gone(short)) == 4
    assert not torch.equal(short.conv1.weight, whole.conv1.weight)


def test_a_latency_is_predicted_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Staircase(pack=1)
    shares = install(monkeypatch, runtime, overhead=0.15)
    whole = stock("cifar", "resnet20")
    with progress.gathered() as notes:
        short = prune(whole, context(), unit="blocks", latency=0.6)
    assert min(abs(share / 0.6 - 1) for share in shares) <= 0.1
    assert runtime.whole(short) < 0.6 * runtime.whole(whole)
    assert sum("measured on the whole model" in note for note in notes) == len(shares)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"ranking": "global"}, "ranking speaks of channels"),
        ({"importance": "taylor"}, "importance speaks of channels"),
        ({"round_to": 8}, "round_to speaks of channels"),
        ({"sparsity": Sparsity("growing")}, "sparsity speaks of channels"),
        ({"macs": 0.01}, r"macs 0\.01 can't be met: without any block it has 0\.\d+"),
        ({"macs": 0.5, "params": 0.5}, "2 targets"),
    ],
)
def test_knobs_that_contradict_each_other_are_refused(knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        prune(stock("cifar", "resnet20"), context(), unit="blocks", **knobs)


def test_what_a_recipe_fills_in_is_taken() -> None:
    asked = {"name": "short", "model": "digits_resnet20", "stages": [{"prune": {"unit": "blocks", "macs": 0.7}}]}
    stage = recipe.parse(asked).stages[0]
    assert gone(prune(stock("cifar", "resnet20"), context(), **stage.knobs))


def test_blocks_are_judged_on_images() -> None:
    with pytest.raises(RecipeError, match="Judging blocks needs images"):
        prune(stock("cifar", "resnet20"), Context(), unit="blocks", macs=0.7)


def test_a_network_without_blocks_is_refused() -> None:
    model = custom(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 6 * 6, 3)))
    with pytest.raises(InputRefused, match="No block of this model can leave whole"):
        prune(model, context(3, 8), unit="blocks", macs=0.7)


def test_a_file_brings_it_back(tmp_path: Path) -> None:
    short = prune(stock("cifar", "resnet20"), context(), unit="blocks", ratio=0.5)
    small = quantize(fuse(prune(short, context(), ratio=0.5, round_to=8), context()), context())
    for number, model in enumerate((short, small)):
        checkpoint.save(model, tmp_path / f"{number}.safetensors")
        back = checkpoint.load(tmp_path / f"{number}.safetensors")
        assert torch.equal(models.predict(back, [noise(model)]), models.predict(model, [noise(model)]))
    assert len(gone(short)) == 4
