"""Every file in rescompress/factorization/methods keeps the contract: exact at full rank, and below as promised."""

import copy
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rescompress import catalog
from rescompress.factorization import METHODS, ByEnergy, Factor, Ranks, chain

NAMES = catalog.names(METHODS.package)
FULL = ByEnergy(1.0)


@dataclass
class Case:
    conv: nn.Conv2d
    x: Tensor


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any convolution without groups that fits a small image, in double precision."""
    sides, channels = st.integers(1, 3), st.integers(1, 6)
    conv = nn.Conv2d(
        draw(channels),
        draw(channels),
        kernel_size=(draw(sides), draw(sides)),
        stride=(draw(sides), draw(sides)),
        padding=(draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        bias=draw(st.booleans()),
    ).double()
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    for parameter in conv.parameters():
        parameter.data.normal_(generator=generator)
    height, width = draw(st.integers(5, 8)), draw(st.integers(5, 8))
    x = torch.randn(2, conv.in_channels, height, width, dtype=torch.float64, generator=generator)
    return Case(conv, x)


def factors(name: str, conv: nn.Conv2d, ranks: Ranks) -> tuple[Factor, ...]:
    split = METHODS.bind(name)(conv)
    return split.at(split.ranks(ranks))


def matrix(layer: nn.Module, i: int, side: int) -> Tensor:
    """The weight that a layer amounts to, a column an output: its answers to one pixel each."""
    pixels = torch.eye(i * side * side, dtype=torch.float64).reshape(-1, i, side, side)
    with torch.no_grad():
        return layer(pixels).flatten(1)


def some_conv(i: int = 6, o: int = 9, side: int = 3, seed: int = 0) -> nn.Conv2d:
    conv = nn.Conv2d(i, o, side, bias=False).double()
    conv.weight.data.normal_(generator=torch.Generator().manual_seed(seed))
    return conv


@pytest.mark.parametrize("name", NAMES)
@given(case=cases())
def test_full_rank_is_exact(name: str, case: Case) -> None:
    made = chain(case.conv, factors(name, case.conv, FULL))
    with torch.no_grad():
        expected, answer = case.conv(case.x), made(case.x)
    assert answer.shape == expected.shape
    assert (answer - expected).abs().max() <= 1e-7 * (1 + expected.abs().max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name_is_exact_too(name: str, padding: str) -> None:
    conv = nn.Conv2d(3, 5, (3, 5), padding=padding, dilation=(2, 1)).double()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    assert torch.allclose(chain(conv, factors(name, conv, FULL))(x), conv(x))


@pytest.mark.parametrize("name", NAMES)
@given(
    side=st.sampled_from([1, 3]), seed=st.integers(0, 2**32), energy=st.floats(0.05, 0.999), round_to=st.integers(1, 4)
)
def test_the_energy_is_kept(name: str, side: int, seed: int, energy: float, round_to: int) -> None:
    conv = some_conv(side=side, seed=seed)
    w = matrix(conv, 6, side)
    made = matrix(chain(conv, factors(name, conv, ByEnergy(energy, round_to))), 6, side)
    assert (w - made).square().sum() <= (1 - energy + 1e-9) * w.square().sum()


@pytest.mark.parametrize(
    ("name", "side"), [(name, side) for name in NAMES for side in (1, 3) if (name, side) != ("cp", 3)]
)
def test_a_weight_that_is_thin_already_is_found_out(name: str, side: int) -> None:
    conv = some_conv(side=side)
    thin = factors(name, conv, ByEnergy(0.5))
    assert sum(factor.weight.numel() for factor in thin) < conv.weight.numel()
    conv.weight.data = matrix(chain(conv, thin), 6, side).T.reshape(conv.weight.shape)
    again = factors(name, conv, ByEnergy(1 - 1e-12))
    assert [factor.weight.shape for factor in again] == [factor.weight.shape for factor in thin]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grad", [True, False])
def test_the_chain_is_of_plain_convolutions_like_the_whole_one(name: str, grad: bool) -> None:
    conv = nn.Conv2d(4, 6, 3).bfloat16().train(grad).requires_grad_(grad)
    before, state = copy.deepcopy(conv.state_dict()), torch.random.get_rng_state()
    made = chain(conv, factors(name, conv, FULL))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[key]) for key, tensor in conv.state_dict().items())
    assert {type(layer) for layer in made} == {nn.Conv2d}
    assert [layer.bias is None for layer in made] == [True] * (len(made) - 1) + [False]
    assert {module.training for module in made.modules()} == {grad}
    for parameter in made.parameters():
        assert (parameter.dtype, parameter.device, parameter.requires_grad) == (
            torch.bfloat16,
            conv.weight.device,
            grad,
        )


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(case=cases(), energy=st.floats(0.05, 1))
def test_the_outline_has_the_shapes_and_the_loss_of_the_chain(name: str, case: Case, energy: float) -> None:
    split = METHODS.bind(name)(case.conv)
    ranks = split.ranks(ByEnergy(energy))
    rough, fine = split.outline(ranks), split.at(ranks)
    shapes = [[(f.weight.shape, f.stride, f.padding, f.dilation, f.groups) for f in some] for some in (rough, fine)]
    assert shapes[0] == shapes[1]
    still = copy.deepcopy(case.conv)
    still.stride, still.padding, still.dilation, still.bias = (1, 1), (2, 2), (1, 1), None
    made = chain(still, METHODS.bind(name)(still).at(ranks))
    pixels = torch.eye(still.in_channels, dtype=torch.float64)[:, :, None, None]
    with torch.no_grad():
        lost = (made(pixels) - still(pixels)).square().sum()
    assert lost <= (split.lost(ranks) + 1e-9) * case.conv.weight.square().sum()


@pytest.mark.parametrize("name", NAMES)
def test_a_dead_weight_is_split_without_nan(name: str) -> None:
    conv = some_conv()
    conv.weight.data.zero_()
    assert all(factor.weight.isfinite().all() for factor in factors(name, conv, ByEnergy(0.9)))


def test_hooi_comes_nearer_than_hosvd() -> None:
    conv = some_conv(12, 12)
    w = matrix(conv, 12, 3)
    lost = []
    for iterations in (0, 1, 5):
        split = METHODS.bind({"tucker2": {"iterations": iterations}})
        made = chain(conv, split(conv).at(split(conv).ranks(ByEnergy(0.5))))
        lost.append(float((w - matrix(made, 12, 3)).square().sum()))
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] < 0.99 * lost[0]
