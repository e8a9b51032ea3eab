"""How many components of a matrix are no noise: the global analytic solution of empirical variational Bayes.

Nakajima, Sugiyama, Babacan and Tomioka 2013, "Global Analytic Solution of Fully-observed Variational Bayesian Matrix
Factorization", JMLR 14:1-37. Ranks of convolutions are read off it as in Kim et al. 2016 (arXiv:1511.06530).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDING = 1e-12
"""Share of the largest square below which a component of float32 weights is rounding."""
_GRID, _ZOOMS = 129, 5


def significant(squares: Float[Tensor, " n"], shape: tuple[int, int]) -> int:
    """The number of components that EVB keeps of an ``L x M`` matrix, whose noise is unknown; 0 if it is all noise.

    Components with ``γ_h² > M σ² x̲`` stay, where ``x̲ = (1 + τ̲)(1 + α / τ̲)``, ``τ̲ = 2.5129 √α`` and
    ``α = L / M <= 1``. Signal must be the smaller part: where a quarter of a square matrix' components are signal
    of middling strength, all of it may pass for noise.

    Args:
        squares: all ``L`` squared singular values ``γ_h²``, largest first.
        shape: of the matrix; which side is the longer one doesn't matter.
    """
    if not squares[0] > 0:
        return 0
    # A matrix of exact low rank has no noise, and zero no logarithm.
    squares = (squares / squares[0]).clamp_min(ROUNDING)
    return int((squares > max(shape) * noise_variance(squares, shape) * _threshold(shape)).sum())


def noise_variance(squares: Float[Tensor, " n"], shape: tuple[int, int]) -> float:
    """The ``σ²`` that minimizes EVB's free energy, between the bounds that the same theorem gives.

    ``Ω(σ⁻²) = sum_h ψ(γ_h² / (M σ²))`` with ``ψ(x) = x - log x + [x > x̲] ψ_1(x)``, ``ψ_1(x) = log(τ(x) + 1) +
    α log(τ(x) / α + 1) - τ(x)`` and ``τ(x) = (x - (1 + α) + √((x - (1 + α))² - 4 α)) / 2``. It has several minima: the
    best of a logarithmic grid is looked at ever more closely, a fixed number of times.

    Args:
        squares: all squared singular values, none of them 0.
        shape: of the matrix.
    """
    short, long = sorted(shape)
    alpha, bar = short / long, _threshold(shape)
    behind = math.ceil(short / (1 + alpha)) - 1
    tail = squares[behind:]
    low = math.log(max(float(tail[0]) / (long * bar), float(tail.mean()) / long))
    high = max(math.log(float(squares.sum()) / (short * long)), low)
    for _ in range(_ZOOMS):
        grid = torch.linspace(low, high, _GRID, dtype=squares.dtype)
        best = int(_free_energy(squares / (long * grid.exp()[:, None]), alpha, bar).argmin())
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _GRID - 1)])
    return math.exp((low + high) / 2)


def _threshold(shape: tuple[int, int]) -> float:
    """``x̲``, below which a component is noise."""
    alpha = min(shape) / max(shape)
    tau = 2.5129 * math.sqrt(alpha)
    return (1 + tau) * (1 + alpha / tau)


def _free_energy(x: Float[Tensor, "g n"], alpha: float, bar: float) -> Float[Tensor, " g"]:
    beyond = x > bar
    middle = x.clamp_min(bar) - (1 + alpha)
    tau = (middle + (middle.square() - 4 * alpha).sqrt()) / 2
    more = (tau + 1).log() + alpha * (tau / alpha + 1).log() - tau
    return (x - x.log() + torch.where(beyond, more, 0)).sum(1)
