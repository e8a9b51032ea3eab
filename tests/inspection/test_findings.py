"""Each finding is made of a network that has it, and not of the same network that hasn't."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rescompress.graph import clone
from rescompress.inspection import inspect
from rescompress.views import Finding, Inspection
from tests.networks import context, custom, stock

pytestmark = pytest.mark.xdist_group("findings")


def of(found: Inspection, kind: str) -> list[Finding]:
    return [finding for finding in found.findings if finding.kind == kind]


def changed(edit: Callable[[nn.Module], None], family: str = "cifar", architecture: str = "resnet8") -> nn.Module:
    """A small stock network with something done to it."""
    model = clone(stock(family, architecture))
    with torch.no_grad():
        edit(model)
    return model


def kill_filter(model: nn.Module) -> None:
    model.layer1[0].conv1.weight[3] = 0


def kill_scale(model: nn.Module) -> None:
    model.layer1[0].bn1.weight[3] = 1e-7


def sink(model: nn.Module) -> None:
    """A channel that the ReLU never lets through."""
    model.layer1[0].bn1.weight[3], model.layer1[0].bn1.bias[3] = 0.1, -0.5


def still(model: nn.Module) -> None:
    model.layer1[0].bn1.running_var[3] = 1e-9


def widen(model: nn.Module) -> None:
    model.layer1[0].bn1.weight[3] = 40


def poison(model: nn.Module) -> None:
    model.layer1[0].conv1.weight[0, 0, 0, 0] = float("nan")


WRONGS = {
    "dead filter": (kill_filter, "dead channels", "1 all but zero", "warning"),
    "dead scale": (kill_scale, "dead channels", "1 all but zero", "warning"),
    "below the ReLU": (sink, "dead channels", "1 never positive", "warning"),
    "constant channel": (still, "variance near zero", "1 of 16 running variances of layer1.0.bn1", "warning"),
    "wide channel": (widen, "uneven weight ranges", "the widest channel of layer1.0.conv1 reaches", "note"),
    "NaN": (poison, "NaN or infinity", "1 of 2304 values of layer1.0.conv1.weight", "error"),
}


@pytest.fixture(scope="module")
def sound() -> Inspection:
    return inspect(stock("cifar", "resnet8"), context().data)


@pytest.mark.parametrize("wrong", WRONGS)
def test_what_was_done_to_the_weights_is_found_and_nothing_else(wrong: str, sound: Inspection) -> None:
    edit, kind, fact, severity = WRONGS[wrong]
    assert of(sound, kind) == []
    found = inspect(changed(edit))
    (finding,) = of(found, kind)
    assert fact in finding.fact
    assert finding.severity == severity
    assert finding.remedy
    blown_up = {"uneven weight ranges"} if edit is still else set()  # by 1 / sqrt(variance)
    assert {other.kind for other in found.findings} == {kind, "residual adds"} | blown_up
    assert found.findings[0].severity == severity  # the worst first


def test_a_dead_filter_whose_variance_vanished_is_told_once() -> None:
    found = inspect(changed(lambda model: (kill_filter(model), still(model))))
    assert [finding.kind for finding in found.findings] == ["dead channels", "residual adds"]


def test_a_layer_that_was_never_trained_should_be() -> None:
    found = inspect(changed(lambda model: model.layer1[0].bn2.weight.zero_()))
    (finding,) = of(found, "dead channels")
    assert "Of the 16 channels of layer1.0.conv2, 16 all but zero" in finding.fact
    assert "Train" in finding.remedy


def test_adds_need_scales_on_both_sides(sound: Inspection) -> None:
    (finding,) = of(sound, "residual adds")
    assert finding.layers == ("layer1.0.add", "layer2.0.add", "layer3.0.add")
    assert "1 identity, 2 fixed" in finding.fact
    straight = custom(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 3)))
    assert inspect(straight).findings == ()


def convs(*widths: int, groups: int = 1, last: nn.Module | None = None) -> nn.Module:
    """A chain of convolutions with these widths behind one that makes 32 channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1)]
    before = 32
    for width in widths:
        layers += [nn.ReLU(), nn.Conv2d(before, width, 3, padding=1, groups=groups)]
        before = width
    behind = [last] if last is not None else [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 3)]
    return custom(nn.Sequential(*layers, *behind))


@pytest.mark.parametrize(
    ("width", "said", "severity"),
    [(27, "nothing that computes in INT8", "warning"), (20, "no tensor cores", "warning"), (24, "not in INT8", "note")],
)
def test_widths_that_no_accelerator_likes(width: int, said: str, severity: str) -> None:
    (finding,) = of(inspect(convs(width)), "odd channel counts")
    assert finding.layers == ("2",)
    assert f"{width} channels" in finding.fact
    assert said in finding.fact
    assert finding.severity == severity


def test_the_network_s_own_outputs_may_be_of_any_number(sound: Inspection) -> None:
    assert of(sound, "odd channel counts") == []  # though it tells 10 classes apart
    assert of(inspect(convs(32)), "odd channel counts") == []


@pytest.mark.parametrize(("groups", "said", "severity"), [(32, "depthwise", "warning"), (4, "8 channels", "note")])
def test_narrow_groups(groups: int, said: str, severity: str) -> None:
    (finding,) = of(inspect(convs(32, groups=groups)), "narrow groups")
    assert (finding.layers, finding.severity) == (("2",), severity)
    assert said in finding.fact
    assert of(inspect(convs(32, groups=2)), "narrow groups") == []


def test_batchnorms_before_their_convolution_stay_in_float(sound: Inspection) -> None:
    norms = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.BatchNorm2d(16), nn.Conv2d(16, 3, 3)]
    (finding,) = of(inspect(custom(nn.Sequential(*norms))), "BatchNorm without convolution")
    assert finding.layers == ("3",)
    assert "1 of 2 BatchNorms" in finding.fact
    assert of(sound, "BatchNorm without convolution") == []


def test_steps_that_no_scheme_covers_stay_in_float(sound: Inspection) -> None:
    odd = convs(32, last=nn.Sequential(nn.GELU(), nn.GroupNorm(2, 32), nn.Conv2d(32, 3, 1)))
    (finding,) = of(inspect(odd), "float steps")
    assert "1 gelu and 1 group_norm" in finding.fact
    assert of(sound, "float steps") == []


class Twice(nn.Module):
    """One convolution in two places, and one in none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.idle = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x).relu())


def test_layers_that_run_twice_or_never() -> None:
    found = inspect(custom(Twice()))
    assert of(found, "shared weights")[0].layers == ("conv",)
    assert "30 of 114 parameters" in of(found, "unused parameters")[0].fact
    assert [layer.layer for layer in found.layers] == ["conv", "conv_1"]


class Spike(nn.Module):
    """Multiplies one pixel of its input by a number, as a hidden outlier would."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)
        self.register_buffer("map", torch.ones(1, 1, 32, 32))
        self.map[0, 0, 5, 5] = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(self.conv1(x) * self.map).mean((2, 3)))


@pytest.mark.parametrize(("factor", "kinds"), [(1.0, []), (1000.0, ["activation outliers"])])
def test_outliers_are_seen_with_images_only(factor: float, kinds: list[str]) -> None:
    torch.manual_seed(0)
    model = custom(Spike(factor), side=32)
    images = context(3).data
    assert of(inspect(model), "activation outliers") == []
    assert [finding.kind for finding in of(inspect(model, images), "activation outliers")] == kinds


def test_values_that_are_no_numbers_are_named_where_they_begin() -> None:
    found = inspect(custom(Spike(float("inf")), side=32), context(3).data)
    (finding,) = [finding for finding in of(found, "NaN or infinity") if "output" in finding.fact]
    assert finding.layers == ("mul",)
    assert {layer.sqnr_db for layer in found.layers} == {None}


class Fragile(nn.Module):
    """Two classes that hang on the last bits of a wide range."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 1), nn.Linear(2, 3, bias=False)
        with torch.no_grad():
            self.conv.bias.fill_(offset)
            self.fc.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.5, -0.5]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


def test_a_layer_that_can_t_bear_int8_is_named() -> None:
    torch.manual_seed(0)
    (finding,) = of(inspect(custom(Fragile(300.0), side=32), context(3).data), "fragile layer")
    assert finding.layers == ("fc",)
    assert of(inspect(custom(Fragile(0.0), side=32), context(3).data), "fragile layer") == []


class Branches(nn.Module):
    """A block whose one branch is much louder than the other."""

    def __init__(self, loudness: float) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)
        with torch.no_grad():
            self.conv2.weight.mul_(loudness)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.fc((x + self.conv2(x)).mean((2, 3)))


@pytest.mark.parametrize(("loudness", "found"), [(1.0, 0), (100.0, 1)])
def test_unequal_branches(loudness: float, found: int) -> None:
    torch.manual_seed(0)
    model = custom(Branches(loudness), side=32)
    assert len(of(inspect(model, context(3).data), "unequal branches")) == found
