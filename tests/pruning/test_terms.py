"""Costs at other widths are those of the model that is cut to them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rescompress import models
from rescompress.cost import total_cost
from rescompress.pruning import Cut, cut_channels, find_groups
from rescompress.pruning.terms import counted, pixels_of
from tests.networks import custom, stock
from tests.pruning.test_prune import some_cuts


class Concatenated(nn.Module):
    """Two groups meet in one layer, one of them twice; a grouped convolution and a linear layer behind pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.both = nn.Conv2d(24, 16, 3, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.deep = nn.Conv2d(16, 16, 3, groups=4)
        self.linear = nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.stem(images))
        x = self.both(torch.cat([x, torch.relu(self.left(x)), x], 1))
        return self.linear(self.deep(torch.relu(self.norm(x))).flatten(1))


NETWORKS = {
    "padded": lambda: stock("cifar", "resnet8"),
    "convolved": lambda: stock("cifar", "resnet8", shortcut="B"),
    "concatenated": lambda: custom(Concatenated()),
}
TRIED = ["padded", "concatenated", pytest.param("convolved", marks=pytest.mark.slow)]
KINDS = {"macs": "macs", "params": "params", "bytes": "weight_bytes"}


@pytest.mark.parametrize("name", TRIED)
@settings(max_examples=2)
@given(most=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_a_cut_costs_what_the_terms_say(name: str, most: float, seed: int) -> None:
    model = NETWORKS[name]()
    shape = models.spec_of(model).input_shape
    groups = find_groups(model, shape)[0]
    assert groups
    cuts = some_cuts(groups, most, seed)
    real = total_cost(cut_channels(model, cuts))
    pixels = pixels_of(model, shape)
    for kind, attribute in KINDS.items():
        costs = counted(model, groups, kind, pixels)
        assert costs.total([len(cut.kept) for cut in cuts]) == getattr(real, attribute)


@pytest.mark.parametrize("name", TRIED)
def test_along_a_group_costs_differ_as_totals_do(name: str) -> None:
    model = NETWORKS[name]()
    shape = models.spec_of(model).input_shape
    groups = find_groups(model, shape)[0]
    costs = counted(model, groups, "macs", pixels_of(model, shape))
    kept = [max(1, group.channels - index) for index, group in enumerate(groups)]
    for index, group in enumerate(groups):
        widths = torch.arange(1, group.channels + 1).numpy()
        along = costs.along(kept, index, widths)
        totals = [costs.total([*kept[:index], int(width), *kept[index + 1 :]]) for width in widths]
        assert (along - along[0]).tolist() == pytest.approx([total - totals[0] for total in totals])


def test_channels_are_those_of_all_groups() -> None:
    model = stock("torchvision", "resnext50_32x4d", side=64)
    groups = find_groups(model, (3, 64, 64))[0]
    whole = counted(model, groups, "channels").total([group.channels for group in groups])
    assert whole == sum(group.channels * group.width for group in groups)


def test_a_layer_that_runs_twice_is_paid_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.shared, self.linear = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.linear(self.shared(torch.relu(self.shared(self.stem(images)))).mean((2, 3)))

    model = custom(Twice())
    (group,) = find_groups(model, (3, 8, 8))[0]
    real = total_cost(cut_channels(model, [Cut(group, (0, 2, 5))]))
    assert counted(model, [group], "macs", pixels_of(model, (3, 8, 8))).total([3]) == real.macs
    assert counted(model, [group], "params").total([3]) == real.params
