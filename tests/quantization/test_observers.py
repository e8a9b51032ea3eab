"""Every file in rescompress/quantization/observers keeps the contract: a range within the extremes."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from rescompress import catalog
from rescompress.quantization import OBSERVERS
from rescompress.quantization.calibration import Histogram
from tests.quantization.test_calibration import histogram

NAMES = catalog.names(OBSERVERS.package)
streams = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50)


@pytest.fixture(scope="module")
def normal_with_outlier() -> Histogram:
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    return histogram([*values.tolist(), 200.0])


@pytest.mark.parametrize("name", NAMES)
@given(values=streams)
@example(values=[2 - 2**-23])
@example(values=[0.0])
@example(values=[-5.0, -5.0, -5.0])
def test_a_range_lies_within_the_extremes(name: str, values: list[float]) -> None:
    made = histogram(values)
    low, high = OBSERVERS.bind(name)(made)
    assert made.low <= low <= high <= made.high


@pytest.mark.parametrize("name", NAMES)
def test_a_range_holds_nearly_all_values(name: str, normal_with_outlier: Histogram) -> None:
    low, high = OBSERVERS.bind(name)(normal_with_outlier)
    assert low < -2.5
    assert high > 2.5


@given(streams)
def test_minmax_is_exact(values: list[float]) -> None:
    assert OBSERVERS.bind("minmax")(histogram(values)) == (min(values), max(values))


@given(streams)
def test_the_hundredth_percentile_is_minmax(values: list[float]) -> None:
    made = histogram(values)
    assert OBSERVERS.bind({"percentile": {"percent": 100}})(made) == (made.low, made.high)


@given(streams, st.floats(50.5, 100), st.floats(50.5, 100))
def test_a_smaller_percentile_is_never_wider(values: list[float], one: float, other: float) -> None:
    made = histogram(values)
    (inner_low, inner_high), (low, high) = (
        OBSERVERS.bind({"percentile": {"percent": percent}})(made) for percent in sorted((one, other))
    )
    assert low <= inner_low <= inner_high <= high


def test_a_percentile_leaves_the_outlier_out(normal_with_outlier: Histogram) -> None:
    _, high = OBSERVERS.bind({"percentile": {"percent": 99.9}})(normal_with_outlier)
    assert high == pytest.approx(3.09, abs=normal_with_outlier.width)
