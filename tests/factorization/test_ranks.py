"""The rank is the smallest that keeps the energy, rounded up, or the one that a planted signal has."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rescompress.factorization.evbmf import noise_variance, significant
from rescompress.factorization.ranks import ByEnergy, ByNoise, Spectrum
from rescompress.factorization.split import halves

rows = st.lists(st.floats(0, 100), min_size=6, max_size=6).map(lambda values: sorted(values, reverse=True))
spectra = st.builds(
    lambda values, share: Spectrum(torch.tensor(values, dtype=torch.float64).square(), (6, 9), share),
    st.lists(rows, min_size=1, max_size=4),
    st.sampled_from([0.5, 1.0]),
)
energies = st.floats(0.01, 1)


@given(spectra, energies)
def test_a_rank_keeps_the_energy_and_one_less_would_not(spectrum: Spectrum, energy: float) -> None:
    rank = ByEnergy(energy).of(spectrum)
    squares = sorted(spectrum.squares.flatten().tolist(), reverse=True)
    allowed, slack = spectrum.share * (1 - energy) * sum(squares), 1e-12 * sum(squares)
    assert sum(squares[rank:]) <= allowed + slack
    assert rank == 1 or sum(squares[rank - 1 :]) >= allowed - slack
    assert spectrum.lost(rank) * sum(squares) == pytest.approx(sum(squares[rank:]))


@given(spectra, energies, st.integers(1, 20))
def test_a_rank_is_rounded_up_and_never_above_full(spectrum: Spectrum, energy: float, round_to: int) -> None:
    least, rank, full = ByEnergy(energy).of(spectrum), ByEnergy(energy, round_to).of(spectrum), spectrum.squares.numel()
    assert rank == full or (rank % round_to == 0 and least <= rank < least + round_to)
    assert least <= rank <= full


@pytest.mark.parametrize(
    ("energy", "round_to", "rank"), [(1.0, 1, 4), (0.999, 1, 3), (0.9, 1, 2), (0.5, 1, 1), (0.5, 3, 3), (0.5, 16, 4)]
)
def test_known_ranks(energy: float, round_to: int, rank: int) -> None:
    squares = torch.tensor([[80.0, 15.0, 5.0, 1e-7]], dtype=torch.float64)
    assert ByEnergy(energy, round_to).of(Spectrum(squares, (4, 4))) == rank


@pytest.mark.parametrize("rule", [ByEnergy(0.9), ByNoise()])
def test_nothing_has_rank_one(rule: ByEnergy | ByNoise) -> None:
    nothing = Spectrum(torch.zeros(1, 5), (5, 7))
    assert rule.of(nothing) == 1
    assert nothing.lost(1) == 0


def test_the_halves_carry_the_same_load() -> None:
    matrix = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spectrum, cut = halves(matrix)
    left, right = cut(6)
    assert torch.allclose(left @ right, matrix)
    assert torch.allclose(left.norm(dim=0), right.norm(dim=1))
    assert torch.allclose(spectrum.squares.sum(), matrix.square().sum())


def planted(short: int, long: int, rank: int, strength: float, seed: int) -> Tensor:
    """A signal of equal singular values in noise of variance 1; at strength 1 the two can just be told apart."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(short, rank, dtype=torch.float64, generator=generator)).Q
    v = torch.linalg.qr(torch.randn(long, rank, dtype=torch.float64, generator=generator)).Q
    # The edge of random noise's own singular values (Marchenko and Pastur 1967).
    edge = math.sqrt(short) + math.sqrt(long)
    return strength * edge * u @ v.T + torch.randn(short, long, dtype=torch.float64, generator=generator)


def squares_of(matrix: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrix).square()


@pytest.mark.parametrize(("short", "long"), [(32, 64), (64, 64), (20, 200), (64, 576), (100, 900)])
@pytest.mark.parametrize("strength", [1.5, 3.0, 30.0])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.2])
def test_the_planted_rank_and_the_noise_are_recovered(short: int, long: int, strength: float, share: float) -> None:
    for seed in range(3):
        rank = int(share * short)
        matrix = planted(short, long, rank, strength, seed)
        squares = squares_of(matrix)
        assert significant(squares, (short, long)) == rank
        assert noise_variance(squares, (short, long)) == pytest.approx(1, rel=0.25)


@given(st.integers(0, 2**32), st.floats(-8, 8))
def test_neither_scale_nor_orientation_matter(seed: int, power: float) -> None:
    matrix = planted(16, 40, 3, 2, seed)
    scaled = squares_of(matrix * 10**power)
    assert significant(scaled, (16, 40)) == significant(squares_of(matrix.T), (40, 16)) == 3


def test_exact_low_rank_has_no_noise_to_stand_out_of() -> None:
    generator = torch.Generator().manual_seed(0)
    product = torch.randn(20, 4, generator=generator) @ torch.randn(4, 50, generator=generator)
    assert significant(squares_of(product.double()), (20, 50)) == 4
    exact = torch.zeros(20, dtype=torch.float64)
    exact[:4] = torch.tensor([9.0, 4.0, 1.0, 0.5])
    assert significant(exact, (20, 50)) == 4
    assert significant(torch.ones(1, dtype=torch.float64), (1, 50)) <= 1


def test_ranks_of_several_matrices_add_up() -> None:
    squares = torch.stack([squares_of(planted(20, 60, rank, 3, rank)) for rank in (2, 0, 5)])
    assert ByNoise().of(Spectrum(squares, (20, 60))) == 7
    assert ByNoise(4).of(Spectrum(squares, (20, 60))) == 8
