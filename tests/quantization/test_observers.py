"""Every file in rescompress/quantization/observers keeps the contract, and each has the property it is named for."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from rescompress import catalog
from rescompress.fakequant import FakeQuantize
from rescompress.quantization import OBSERVERS
from rescompress.quantization.grid import UINT8, Grid, Range
from rescompress.quantization.histogram import Histogram
from rescompress.quantization.observers.mse import expected_error
from rescompress.quantization.ranges import set_activation
from rescompress.sites import Site
from tests.quantization.test_histogram import histogram

NAMES = catalog.names(OBSERVERS.package)
GRIDS = {"u8": UINT8, "s8 symmetric": Grid(-128, 127, symmetric=True), "s8": Grid(-128, 127)}
streams = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50)


def normal(count: int = 20_000, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def made_of(values: Tensor) -> Histogram:
    made = Histogram()
    made.update(values.float())
    return made


SHAPES = {
    "normal": normal(),
    "behind a ReLU": normal().relu(),
    "all below zero": -normal().abs() - 0.1,
    "far from zero": normal() + 1000,
    "heavy tails": normal() / normal(seed=1).abs().clamp(min=0.01),
    "an outlier": torch.cat([normal(), torch.tensor([200.0])]),
    "an outlier below": torch.cat([normal().relu(), torch.tensor([-200.0])]),
    "all zero": torch.zeros(10),
    "one value": torch.full((10,), 2.5),
    "one value below zero": torch.full((10,), -1e-3),
    "tiny": normal() * 1e-30,
    "denormal": normal() * 1e-40,
    "huge": normal() * 1e30,
    "two values": torch.tensor([-1.0] * 9 + [3.0]),
    "mostly zero": torch.cat([torch.zeros(100_000), normal(50).abs()]),
}


def holds(ranges: tuple[Range, ...], made: Histogram) -> bool:
    ends = (min(made.low, 0.0), max(made.high, 0.0))
    return bool(ranges) and all(ends[0] <= low <= 0 <= high <= ends[1] for low, high in ranges)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_range_lies_within_the_extremes_and_holds_zero(name: str, shape: str, grid: Grid) -> None:
    made = made_of(SHAPES[shape])
    ranges = OBSERVERS.bind(name)(made, grid)
    assert holds(ranges, made)
    if made.low != 0 or made.high != 0:
        assert all(low < high for low, high in ranges)


@pytest.mark.parametrize("name", NAMES)
@given(values=streams)
@example(values=[2 - 2**-23])
@example(values=[0.0])
@example(values=[-5.0, -5.0, -5.0])
def test_so_it_does_for_any_values(name: str, values: list[float]) -> None:
    made = histogram(values)
    assert holds(OBSERVERS.bind(name)(made), made)


@pytest.mark.parametrize("power", [-20, 3, 40])
@pytest.mark.parametrize("name", NAMES)
def test_a_range_grows_with_the_values(name: str, power: int) -> None:
    """Powers of two move no value to another bin, so the range is the same but for rounding."""
    ranges, grown = (OBSERVERS.bind(name)(made_of(normal() * 2.0**k)) for k in (0, power))
    assert np.allclose(np.array(grown) / 2.0**power, np.array(ranges), rtol=1e-9)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_mirrored_value_has_a_mirrored_range(name: str, grid: Grid) -> None:
    values = normal() ** 3 + 1
    (low, high), *_ = OBSERVERS.bind(name)(made_of(values), grid)
    (mirrored_low, mirrored_high), *_ = OBSERVERS.bind(name)(made_of(-values), grid)
    step = (high - low) / 255
    assert (-mirrored_high, -mirrored_low) == pytest.approx((low, high), abs=4 * step)


@pytest.mark.parametrize("name", NAMES)
def test_a_range_holds_nearly_all_values(name: str) -> None:
    for low, high in OBSERVERS.bind(name)(made_of(SHAPES["an outlier"])):
        assert low < -2.5
        assert high > 2.5


@given(streams)
def test_minmax_is_exact(values: list[float]) -> None:
    assert OBSERVERS.bind("minmax")(histogram(values)) == ((min(*values, 0.0), max(*values, 0.0)),)


@given(streams)
def test_the_hundredth_percentile_is_minmax(values: list[float]) -> None:
    made = histogram(values)
    assert OBSERVERS.bind({"percentile": {"percent": 100}})(made) == OBSERVERS.bind("minmax")(made)


@given(streams, st.floats(50.5, 100), st.floats(50.5, 100))
def test_a_smaller_percentile_is_never_wider(values: list[float], one: float, other: float) -> None:
    made = histogram(values)
    ((inner_low, inner_high),), ((low, high),) = (
        OBSERVERS.bind({"percentile": {"percent": percent}})(made) for percent in sorted((one, other))
    )
    assert low <= inner_low <= inner_high <= high


def test_a_percentile_leaves_the_outlier_out() -> None:
    made = made_of(torch.cat([normal(100_000), torch.tensor([200.0])]))
    ((_, high),) = OBSERVERS.bind({"percentile": {"percent": 99.9}})(made)
    assert high == pytest.approx(3.09, abs=made.width)


def spread(made: Histogram, per_bin: int = 400) -> tuple[Tensor, Tensor]:
    """Values that fill each bin evenly within the extremes, and their weights."""
    full = made.counts > 0
    begin, end = made.edges[:-1][full].clamp(min=made.low), made.edges[1:][full].clamp(max=made.high)
    places = (torch.arange(per_bin, dtype=torch.float64) + 0.5) / per_bin
    values = begin[:, None] + (end - begin)[:, None] * places
    return values, (made.counts[full].double() / made.total / per_bin)[:, None].expand_as(values)


def rounded(values: Tensor, name: str, low: float, high: float) -> Tensor:
    """What a quantized network's own fake-quant makes of the values."""
    site = Site("x", "x", "uint8" if name == "u8" else "int8", symmetric="symmetric" in name)
    quantizer = FakeQuantize(site)
    set_activation(quantizer, low, high)
    return quantizer(values.float()).double()


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("ends", [(-4.0, 4.0), (-1.0, 2.5), (0.0, 0.4), (-0.05, 0.02)])
def test_the_expected_error_is_that_of_the_fake_quant(name: str, ends: Range) -> None:
    made = made_of(normal(3000))
    values, weights = spread(made)
    brute = float(((rounded(values, name, *ends) - values).square() * weights).sum())
    formula = float(expected_error(made, GRIDS[name], *(torch.tensor([end]).double() for end in ends)))
    assert formula == pytest.approx(brute, rel=2e-3)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("shape", ["normal", "behind a ReLU", "heavy tails", "an outlier", "all below zero"])
def test_no_other_clip_has_less_expected_error(name: str, shape: str) -> None:
    """Against every pair of a lattice of 32 x 32 clips."""
    made, grid = made_of(SHAPES[shape]), GRIDS[name]
    ((low, high),) = OBSERVERS.bind("mse")(made, grid)
    shares = torch.linspace(1 / 32, 1, 32, dtype=torch.float64)
    pairs = torch.cartesian_prod(shares * min(made.low, 0.0), shares * max(made.high, 0.0))
    least = float(expected_error(made, grid, pairs[:, 0], pairs[:, 1]).min())
    found = float(expected_error(made, grid, *(torch.tensor([end]).double() for end in (low, high))))
    assert found <= least * 1.01


def test_the_clip_of_a_normal_value_is_the_books() -> None:
    """J. Max, "Quantizing for Minimum Distortion" (1960), table II: 15 levels of 0.3534 sigma for a normal value."""
    made = made_of(torch.cat([normal(400_000), torch.tensor([-6.0, 6.0])]))
    ((low, high),) = OBSERVERS.bind("mse")(made, Grid(-7, 7, symmetric=True))
    assert -low == high == pytest.approx(7 * 0.3534, rel=0.03)


def divergence(made: Histogram, t: float) -> float:
    """KL divergence of a clip at ``t``, unsigned 8 bits, values above 0; a plain loop over bins."""
    counts, edges = made.counts.double().tolist(), made.edges.tolist()
    counts[0] = min(counts[0], counts[1])
    inside = [i for i in range(len(counts)) if edges[i] < t]
    p = [counts[i] for i in inside]
    p[-1] += sum(counts[inside[-1] + 1 :])
    levels: dict[int, list[int]] = {}
    for i in inside:
        levels.setdefault(min(round((edges[i] + edges[i + 1]) / 2 / (t / 255)), 255), []).append(i)
    q = [0.0] * len(inside)
    for bins in levels.values():
        full = [i for i in bins if counts[i] > 0]
        for i in full:
            q[i] = sum(counts[j] for j in full) / len(full)
    total_p, total_q = sum(p), sum(q)
    return sum(
        (a / total_p) * math.log((a / total_p) / (b / total_q if b else 1e-4))
        for a, b in zip(p, q, strict=True)
        if a > 0
    )


def test_no_other_threshold_has_less_divergence() -> None:
    made = made_of(normal(50_000).abs().pow(1.7))
    ((low, high),) = OBSERVERS.bind("entropy")(made)
    assert low == 0
    thresholds = [made.width * k for k in range(260, int(made.high / made.width), 97)]
    assert divergence(made, high) <= min(divergence(made, t) for t in thresholds) * 1.02
    assert high < made.high


def test_zeros_behind_a_relu_do_not_move_the_threshold() -> None:
    positive = normal(50_000).abs()
    thresholds = [
        OBSERVERS.bind("entropy")(made_of(torch.cat([positive, torch.zeros(zeros)]))) for zeros in (0, 500_000)
    ]
    assert thresholds[0] == thresholds[1]


@pytest.mark.parametrize("shape", ["heavy tails", "an outlier", "behind a ReLU"])
def test_adaptive_proposes_what_the_others_do(shape: str) -> None:
    made = made_of(SHAPES[shape])
    proposed = np.array(OBSERVERS.bind("adaptive")(made))
    assert len(proposed) > 2
    for name in ("minmax", "percentile", "entropy", "mse"):
        (other,) = OBSERVERS.bind(name)(made)
        away = np.abs(proposed - np.array(other)).max(1) / (proposed[:, 1] - proposed[:, 0])
        assert away.min() < 0.011
        assert np.sort(away)[1] > 0.005
