"""CP: exact with enough components, no worse than its start with fewer, and never with components that run away."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rescompress.factorization import METHODS, ByEnergy
from rescompress.factorization.methods.cp import MU, Factors, balanced, refined


def conv_of(w: Tensor) -> nn.Conv2d:
    o, i, ky, kx = w.shape
    conv = nn.Conv2d(i, o, (ky, kx), bias=False).double()
    conv.weight.data = w.double()
    return conv


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def planted(rank: int, seed: int) -> Tensor:
    parts = [draw(side, rank, seed=seed + k) for k, side in enumerate((8, 7, 3, 3))]
    return torch.einsum("or,ir,yr,xr->oiyx", *parts)


def answer(w: Tensor, rank: int, iterations: int) -> Tensor:
    b, c, d, a = (f.weight for f in METHODS.bind({"cp": {"iterations": iterations}})(conv_of(w)).at((rank,)))
    return torch.einsum("or,ri,ry,rx->oiyx", a[:, :, 0, 0], b[:, :, 0, 0], c[:, 0, :, 0], d[:, 0, 0, :])


def error(w: Tensor, rank: int, iterations: int) -> float:
    return float((w - answer(w, rank, iterations)).square().sum() / w.square().sum())


def energy(parts: Factors) -> Tensor:
    return torch.stack([part.norm(dim=0) for part in parts]).prod(0).square().sum()


shapes = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(2, 3))


@settings(max_examples=15)
@given(shapes, st.integers(0, 2**32))
def test_as_many_components_as_slices_have_are_exact(shape: tuple[int, int, int, int], seed: int) -> None:
    w, (o, i, ky, kx) = draw(*shape, seed=seed), shape
    (rank,) = METHODS.bind("cp")(conv_of(w)).ranks(ByEnergy(1.0))
    assert rank <= ky * kx * min(o, i)
    assert error(w, rank, 30) < 1e-20


@given(shapes, st.integers(0, 2**32), st.integers(1, 10))
def test_the_start_loses_exactly_what_is_dropped(shape: tuple[int, int, int, int], seed: int, rank: int) -> None:
    w = draw(*shape, seed=seed)
    (spectrum,) = METHODS.bind("cp")(conv_of(w)).spectra
    assert error(w, min(rank, spectrum.squares.numel()), 0) == pytest.approx(spectrum.lost(rank), abs=1e-12)


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(0, 100))
def test_refining_never_harms_and_components_stay_bounded(seed: int, rank: int, iterations: int) -> None:
    w = draw(6, 5, 3, 3, seed=seed)
    start: Factors = tuple(draw(side, rank, seed=seed + k) / 9 for k, side in enumerate(w.shape))  # type: ignore[assignment]
    made = refined(w, start, iterations)
    before, after = (float((w - torch.einsum("or,ir,yr,xr->oiyx", *some)).square().sum()) for some in (start, made))
    assert after <= before
    assert energy(made) <= energy(start) + before / MU + 1e-9


def test_refining_finds_what_was_planted() -> None:
    """The components aren't orthogonal, so that the start can't be right; the ridge keeps it from being exact."""
    for seed in range(0, 30, 10):
        w = planted(3, seed)
        assert error(w, 3, 100) < min(5e-3, error(w, 3, 0) / 3)


def test_a_weight_without_a_best_rank_2_doesnt_diverge() -> None:
    """``a b b + b a b + b b a`` has rank 3, yet rank 2 comes as near as one likes, with ever larger components."""
    a, b = torch.eye(2, dtype=torch.float64)
    w = sum(torch.einsum("o,i,y->oiy", *some) for some in ((a, b, b), (b, a, b), (b, b, a)))
    assert isinstance(w, Tensor)
    w = w[..., None]
    sizes = []
    for ridge in (MU, 0):
        start: Factors = tuple(draw(side, 2, seed=k) for k, side in enumerate(w.shape))  # type: ignore[assignment]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rescompress.factorization.methods.cp.MU", ridge)
            sizes.append(float(energy(refined(w, start, 200)) / w.square().sum()))
    assert sizes[0] < 2 < 6 < sizes[1]


def test_no_mode_dominates() -> None:
    parts = balanced(tuple(10.0**k * draw(side, 4, seed=k) for k, side in enumerate((8, 7, 3, 3))))  # type: ignore[arg-type]
    for part in parts[1:]:
        assert torch.allclose(part.norm(dim=0), parts[0].norm(dim=0))
