"""Each convolution gives way only to a chain that is really cheaper, and everything else stays to the bit."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rescompress import catalog, cost, models, progress
from rescompress.context import Context
from rescompress.errors import InputRefused, RecipeError
from rescompress.factorization import METHODS, factorize
from rescompress.fusion import fuse
from rescompress.recipe.order import check_order
from tests.networks import captured, context, custom, enliven, fused, noise, quantized, same, snapshot, stock

LOW = {"energy": 0.4, "round_to": 4}
"""Random weights have no low rank: this is where a chain is cheaper all the same."""


@cache
def thin() -> nn.Module:
    return factorize(stock("cifar", "resnet8"), Context(), method="tucker2", **LOW)


class Small(nn.Module):
    """Two convolutions that a chain can replace, each with its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 16, 3, dilation=2), nn.BatchNorm2d(16)
        self.narrow, self.linear = nn.Conv2d(16, 1, 1), nn.Linear(1, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu())).relu()
        return self.linear(self.narrow(x).mean((2, 3)))


@cache
def small() -> nn.Module:
    return enliven(custom(Small(), side=16))


def split_in(model: nn.Module) -> list[str]:
    """Names of the chains."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Sequential) and len(module) > 1 and all(isinstance(one, nn.Conv2d) for one in module)
    ]


@pytest.mark.parametrize("method", catalog.names(METHODS.package))
def test_each_chain_is_cheaper_than_its_convolution(method: str) -> None:
    whole, factorized = small(), factorize(small(), Context(), method=method, energy=0.4, round_to=1)
    before, after = ({layer.layer: layer for layer in cost.layer_costs(model)} for model in (whole, factorized))
    assert split_in(factorized) == ["conv1", "conv2"]
    for name in ("conv1", "conv2"):
        parts = [layer for layer in after.values() if layer.layer.startswith(f"{name}.")]
        assert sum(layer.macs for layer in parts) < before[name].macs
        assert parts[-1].output_shape == before[name].output_shape
    stayed = {name: tensor for name, tensor in whole.state_dict().items() if not name.startswith("conv")}
    assert all(torch.equal(tensor, factorized.state_dict()[name]) for name, tensor in stayed.items())


def test_fusing_a_factorized_network_keeps_its_answers() -> None:
    folded = fuse(thin(), Context())
    assert len(split_in(thin())) == len(split_in(folded)) > 2
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    expected, answer = (models.predict(model, [noise(model)]) for model in (thin(), folded))
    assert (answer - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_factorizing_a_fused_network_keeps_its_answers() -> None:
    """Folding scales the outputs and so turns the weight: only what has rank 1 has it before and after."""
    model = copy.deepcopy(small())
    weight = model.conv2.weight
    weight.data = torch.einsum("o,i,y,x->oiyx", *(torch.linspace(0.1, 1, side) for side in weight.shape))
    folded = fuse(model, Context())
    factorized = factorize(folded, Context(), energy=1 - 1e-6, round_to=1)
    assert split_in(factorized) == ["conv2"]
    answer, expected = (models.predict(one, [noise(one)]) for one in (factorized, folded))
    assert (answer - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_argument_is_not_edited() -> None:
    model = copy.deepcopy(small()).train()
    model.conv2.eval().weight.requires_grad_(False)
    before = snapshot(model)
    factorized = factorize(model, Context(), energy=0.4, round_to=1)
    assert same(before, snapshot(model))
    assert models.spec_of(factorized) == models.spec_of(model)
    assert factorized.training
    assert {name for name, module in factorized.named_modules() if not module.training} == {
        "conv2",
        "conv2.0",
        "conv2.1",
    }
    frozen = {name for name, one in factorized.named_parameters() if not one.requires_grad}
    assert frozen == {"conv2.0.weight", "conv2.1.weight"}
    own = {tensor.data_ptr() for tensor in factorized.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in model.state_dict().values()}


class Doubled(nn.Conv2d):
    """Its weight is not what it convolves with."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Mixed(nn.Module):
    """One convolution that gets cheaper, and one of each kind that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Conv2d(3, 12, 3, padding=1)
        self.grouped, self.mirrored = nn.Conv2d(12, 12, 3, groups=2), nn.Conv2d(12, 12, 3, padding_mode="reflect")
        self.doubled = Doubled(12, 12, 3)
        self.shared = nn.Conv2d(12, 12, 1)
        self.alias = self.shared
        self.chain = nn.Sequential(nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 1))
        self.thin, self.linear = nn.Conv2d(12, 1, 1), nn.Linear(1, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.doubled(self.mirrored(self.grouped(self.good(images)))).relu()
        return self.linear(self.thin(self.chain(self.alias(self.shared(x)))).mean((2, 3)))


def test_what_stays_is_told_and_what_the_gate_refused_by_name() -> None:
    model = custom(Mixed(), side=12)
    with progress.gathered() as notes:
        factorized = factorize(model, Context(), energy=0.3, round_to=1)
    counts, refused = notes
    assert counts.startswith("factorize: 1 of 8 convolutions are split; the others stay: ")
    for reason in ("1 grouped", "1 reflect padding", "1 Doubled layers", "1 used in several places"):
        assert reason in counts
    assert "2 factorized before" in counts
    assert "1 no cheaper" in counts
    # 12 to 1 channels by 1 x 1: the chain is 12 to 1 to 1.
    assert refused == "factorize: kept whole, as a chain costs no less: thin (1.08x the MACs)."
    assert split_in(factorized) == ["good", "chain"]
    assert factorized.alias is factorized.shared


def test_the_layers_told_are_few() -> None:
    convs = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(11)), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(InputRefused, match=r", and 3 more\.") as refusal:
        factorize(custom(nn.Sequential(convs, nn.Flatten())), Context(), energy=1)
    assert refusal.value.fact.count("2.00x the MACs") == 8


class Twice(nn.Module):
    """One convolution runs twice, and another has the name that the second run gets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv_2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.stem, self.linear = nn.Conv2d(3, 8, 1), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(self.conv(self.stem(images)).relu())
        return self.linear(self.conv_2(x).mean((2, 3)))


def test_a_convolution_that_runs_twice_is_split_where_it_gets_cheaper() -> None:
    factorized = factorize(custom(Twice()), Context(), method="channel_svd", energy=0.3, round_to=1)
    assert {"conv", "conv_2"} <= set(split_in(factorized))


@pytest.mark.parametrize("make", [quantized, captured])
def test_a_graph_is_refused(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(InputRefused, match="No convolution of this model can be factorized"):
        factorize(make("cifar", "resnet8"), Context())


def test_a_rank_at_which_nothing_gets_cheaper_is_refused() -> None:
    with pytest.raises(InputRefused, match="No layer gets cheaper at this rank") as refusal:
        factorize(custom(Twice()), Context(), energy=1)
    assert "Lower energy" in refusal.value.remedy


def test_factorizing_again_finds_nothing() -> None:
    with pytest.raises(InputRefused, match="No convolution of this model can be factorized"):
        factorize(thin(), Context(), **LOW)


def test_weights_that_are_no_numbers_are_refused() -> None:
    model = copy.deepcopy(fused("cifar", "resnet8"))
    model.layer2[0].conv1.weight.data[0, 0, 0, 0] = torch.inf
    with pytest.raises(InputRefused, match=r"layer2\.0\.conv1 holds NaN or infinite weights"):
        factorize(model, Context())


@pytest.mark.parametrize("method", catalog.names(METHODS.package))
def test_noise_is_left_out_by_evbmf(method: str) -> None:
    """A separable kernel between channels of rank 3, in noise."""
    model, generator = copy.deepcopy(small()), torch.Generator().manual_seed(0)
    o, i = torch.randn(16, 3, generator=generator), torch.randn(3, 12, generator=generator)
    w = torch.einsum("or,ri,y,x->oiyx", o, i, torch.ones(3), torch.ones(3))
    model.conv2.weight.data = w + 0.01 * torch.randn(16, 12, 3, 3, generator=generator)
    factorized = factorize(model, Context(), method=method, rank="evbmf", round_to=1)
    assert {layer.out_channels for layer in factorized.conv2[:-1]} == {3}


def test_images_refresh_the_norms_unless_nothing_is_lost() -> None:
    model, ctx = small(), context(3, 16)
    with_images, without = (factorize(model, one, energy=0.4, round_to=1) for one in (ctx, Context()))
    assert torch.equal(with_images.linear.weight, without.linear.weight)
    assert not torch.equal(with_images.bn2.running_mean, without.bn2.running_mean)
    thin = copy.deepcopy(model)
    conv = thin.conv2
    conv.weight.data = torch.einsum("o,i,y,x->oiyx", *(torch.linspace(0.1, 1, side) for side in conv.weight.shape))
    exact = factorize(thin, ctx, energy=1 - 1e-10, round_to=1)
    assert split_in(exact) == ["conv2"]
    assert torch.equal(exact.bn1.running_mean, model.bn1.running_mean)


@pytest.mark.parametrize(
    ("knobs", "fact"),
    [
        ({"rank": "budget"}, "a budget that isn't given"),
        ({"budget": 0.5}, "has a budget, but reads ranks off energy"),
        ({"rank": "evbmf", "budget": 0.5}, "has a budget, but reads ranks off evbmf"),
        ({"rank": "evbmf", "energy": 0.5}, "has an energy, but reads ranks off evbmf"),
        ({"on": {"threads": 2}}, "its gate is macs"),
    ],
)
def test_knobs_that_contradict_each_other_are_refused(knobs: dict[str, Any], fact: str) -> None:
    with pytest.raises(RecipeError, match=fact):
        factorize(stock("cifar", "resnet8"), Context(), **knobs)


@pytest.mark.parametrize(
    "knobs",
    [
        *({"energy": energy} for energy in (0, 1.1, -0.5, float("nan"), "most", None)),
        *({"round_to": multiple} for multiple in (0, 129, 2.5)),
        *({"rank": name} for name in ("tucker", None)),
        *({"rank": "budget", "budget": budget} for budget in (0, 1, 1.5, "half")),
        *({"gate": "latency", "on": on} for on in ({"threads": 0}, {"thread": 1}, 3)),
        *({"method": name} for name in ("tucker", {"spatial_svd": {"rank": 2}}, {"tucker2": {"iterations": -1}}, 3)),
        {"enrgy": 0.3},
    ],
)
def test_a_knob_out_of_range_is_refused(knobs: dict[str, object]) -> None:
    with pytest.raises(RecipeError) as refusal:
        factorize(stock("cifar", "resnet8"), Context(), **knobs)  # type: ignore[arg-type]
    assert refusal.value.fact.endswith(".")
    assert refusal.value.remedy.endswith((".", "?", "…"))


@pytest.mark.parametrize("later", ["fuse", "quantize"])
def test_factorize_stands_before_what_reads_its_layers(later: str) -> None:
    with pytest.raises(RecipeError, match=f"factorize stands behind {later}"):
        check_order([later, "factorize"])
