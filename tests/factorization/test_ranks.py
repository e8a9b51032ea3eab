"""The rank is the smallest that keeps the energy, rounded up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rescompress.factorization.ranks import Ranks, halves

spectra = st.lists(st.floats(0, 100), min_size=1, max_size=40).map(
    lambda values: torch.tensor(sorted(values, reverse=True), dtype=torch.float64).square()
)
energies = st.floats(0.01, 1)


@given(spectra, energies, st.sampled_from([0.5, 1.0]))
def test_a_rank_keeps_the_energy_and_one_less_would_not(squares: Tensor, energy: float, share: float) -> None:
    rank = Ranks(energy, 1).of(squares, share)
    allowed, slack = share * (1 - energy) * squares.sum(), 1e-12 * squares.sum()
    assert squares[rank:].sum() <= allowed + slack
    assert rank == 1 or squares[rank - 1 :].sum() >= allowed - slack


@given(spectra, energies, st.integers(1, 20))
def test_a_rank_is_rounded_up_and_never_above_full(squares: Tensor, energy: float, round_to: int) -> None:
    least, rank = Ranks(energy, 1).of(squares), Ranks(energy, round_to).of(squares)
    assert rank == len(squares) or (rank % round_to == 0 and least <= rank < least + round_to)
    assert least <= rank <= len(squares)


@pytest.mark.parametrize(
    ("energy", "round_to", "rank"), [(1.0, 1, 4), (0.999, 1, 3), (0.9, 1, 2), (0.5, 1, 1), (0.5, 3, 3), (0.5, 16, 4)]
)
def test_known_ranks(energy: float, round_to: int, rank: int) -> None:
    assert Ranks(energy, round_to).of(torch.tensor([80.0, 15.0, 5.0, 1e-7], dtype=torch.float64)) == rank


def test_nothing_has_rank_one() -> None:
    assert Ranks(0.9, 1).of(torch.zeros(5)) == 1


def test_the_halves_carry_the_same_load() -> None:
    matrix = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left, right = halves(matrix, Ranks(1.0, 1))
    assert torch.allclose(left @ right, matrix)
    assert torch.allclose(left.norm(dim=0), right.norm(dim=1))
