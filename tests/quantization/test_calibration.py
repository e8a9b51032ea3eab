"""A histogram is exact: neither the order nor the batching of what streams by changes a count."""

from itertools import pairwise
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from rescompress import models
from rescompress.errors import InputRefused
from rescompress.quantization.calibration import BINS, Histogram, calibrate
from tests.networks import captured, noise

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
activations = st.floats(-1000, 1000, width=32)


def histogram(*batches: list[float]) -> Histogram:
    made = Histogram()
    for batch in batches:
        made.update(torch.tensor(batch, dtype=torch.float32))
    return made


def outcome(made: Histogram) -> tuple[float, float, float, int, list[int]]:
    return made.low, made.high, made.width, made.first, made.counts.tolist()


@st.composite
def split_streams(draw: st.DrawFn, values: st.SearchStrategy[float]) -> tuple[list[float], list[list[float]]]:
    """A stream, and the same values in another order and other batches."""
    stream = draw(st.lists(values, min_size=1, max_size=30))
    shuffled = draw(st.permutations(stream))
    cuts = sorted({0, len(stream), *draw(st.lists(st.integers(0, len(stream)), max_size=4))})
    return stream, [shuffled[start:end] for start, end in pairwise(cuts)]


@given(split_streams(activations))
@example(([600.0, 1100.0], [[600.0], [1100.0]]))
@example(([0.0, 1.0], [[0.0], [1.0]]))
def test_neither_order_nor_batching_changes_the_outcome(streams: tuple[list[float], list[list[float]]]) -> None:
    whole, batches = streams
    assert outcome(histogram(*batches)) == outcome(histogram(whole))


@given(split_streams(numbers))
@example(([0.0, 1.0], [[0.0], [1.0]]))
@example(([1e-30, 1e30], [[1e-30], [1e30]]))
def test_any_finite_values_are_counted_in_their_bins(streams: tuple[list[float], list[list[float]]]) -> None:
    whole, batches = streams
    made = histogram(*batches)
    values = np.array(whole, np.float32).astype(np.float64)
    assert (made.low, made.high) == (values.min(), values.max())
    assert made.total == len(whole)
    edges = made.edges.numpy()
    places = np.searchsorted(edges, values, side="right") - 1
    assert np.array_equal(np.bincount(places, minlength=BINS), made.counts.numpy())


@pytest.mark.parametrize("values", [[0.0] * 5, [-3.0, -2.0], [7.0], [3e38, -3e38], [1e-38], [1e9, 1e9 + 64]])
def test_odd_streams_keep_exact_extremes(values: list[float]) -> None:
    made = histogram(values)
    exact = torch.tensor(values).double()
    assert (made.low, made.high, made.total) == (exact.min(), exact.max(), len(values))
    assert made.first == floor(made.low / made.width)


def test_memory_does_not_grow() -> None:
    made = Histogram()
    for step in range(20):
        made.update(torch.randn(1000) * 2**step)
    assert made.counts.shape == (BINS,)
    assert made.total == 20_000


def test_bins_are_fine_where_the_values_fill_them() -> None:
    made = histogram(torch.linspace(-1, 2.9, 1000).tolist())
    assert made.high - made.low > made.width * BINS / 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not a number"):
        histogram([0.0, bad, 1.0])


def test_watched_values_are_counted_by_name() -> None:
    traced = captured("cifar", "resnet8")
    images = noise(traced, 4)
    found = calibrate(traced, [images[:1], images[1:]], {"images", "layer3.0.relu_1"})
    assert list(found) == ["images", "layer3.0.relu_1"]
    assert (found["images"].low, found["images"].high) == (float(images.min()), float(images.max()))
    assert found["images"].total == images.numel()
    assert found["layer3.0.relu_1"].low == 0


def test_the_batch_hardly_changes_what_a_network_shows() -> None:
    """A convolution may sum in another order, so nothing is equal to the bit."""
    traced = captured("cifar", "resnet8")
    images = noise(traced, 8)
    one, other = (calibrate(traced, images.split(size), ["layer1.0.add", "linear"]) for size in (2, 8))
    for name, made in one.items():
        assert (made.low, made.high) == pytest.approx((other[name].low, other[name].high), rel=1e-5)
        assert (made.total, made.width, made.first) == (other[name].total, other[name].width, other[name].first)
        assert (made.counts - other[name].counts).abs().sum() <= made.total / 1000


def test_a_broken_layer_is_named() -> None:
    traced = captured("cifar", "resnet8")
    images = noise(traced)
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputRefused, match="output of images is not a number"):
        calibrate(traced, [images], {"images", "conv1"})
    with pytest.raises(InputRefused, match=r"output of layer1\.0\.conv1 is"):
        calibrate(traced, [images], {"layer1.0.conv1"})


def test_calibration_leaves_the_network_as_it_was() -> None:
    traced = captured("cifar", "resnet8")
    before = models.predict(traced, [noise(traced)])
    calibrate(traced, [noise(traced)], {"images"})
    assert torch.equal(models.predict(traced, [noise(traced)]), before)
