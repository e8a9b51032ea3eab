"""A histogram is exact: neither the order nor the batching of what streams by changes a count."""

from itertools import pairwise
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from rescompress.quantization import histogram as module
from rescompress.quantization.histogram import BINS, Histogram

TINY = 2.0**-149
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
@example(([-TINY, 3e38], [[-TINY], [3e38]]))
@example(([-TINY, TINY], [[-TINY, TINY]]))
@example(([-TINY, 8191.0], [[-TINY, 8191.0]]))
@example(([-(1 - 2.0**-24), -1.0, 1024 - 2.0**-14], [[-(1 - 2.0**-24), -1.0, 1024 - 2.0**-14]]))
def test_any_finite_values_are_counted_in_their_bins(streams: tuple[list[float], list[list[float]]]) -> None:
    whole, batches = streams
    made = histogram(*batches)
    values = np.array(whole, np.float32).astype(np.float64)
    assert (made.low, made.high) == (values.min(), values.max())
    assert made.total == len(whole)
    edges = made.edges.numpy()
    places = np.searchsorted(edges, values, side="right") - 1
    assert np.array_equal(np.bincount(places, minlength=BINS), made.counts.numpy())


@pytest.mark.parametrize("scale", [1e-40, 1e-3, 1.0, 300.0, 1e5, 1e30])
@pytest.mark.parametrize("shift", [0.0, -3.0, 50.0])
def test_many_values_are_counted_as_integers_count_them(scale: float, shift: float) -> None:
    """Against exact rational arithmetic: a bin's place is an integer quotient of two multiples of 2^-149."""
    generator = torch.Generator().manual_seed(1)
    values = ((torch.randn(3000, generator=generator) + shift) * scale).float()
    made = Histogram()
    made.update(values)
    width = int(made.width / TINY)
    places = [int(value / TINY) // width - made.first for value in values.tolist()]
    assert made.counts.tolist() == np.bincount(places, minlength=BINS).tolist()


@pytest.mark.parametrize("values", [[0.0] * 5, [-3.0, -2.0], [7.0], [3e38, -3e38], [1e-38], [1e9, 1e9 + 64]])
def test_odd_streams_keep_exact_extremes(values: list[float]) -> None:
    made = histogram(values)
    exact = torch.tensor(values).double()
    assert (made.low, made.high, made.total) == (exact.min(), exact.max(), len(values))
    assert made.first == floor(made.low / made.width)


@pytest.mark.parametrize("arrange", ["channels_last", "transposed", "strided", "double"])
def test_how_values_lie_in_memory_changes_nothing(arrange: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    whole = Histogram()
    whole.update(x)
    arranged = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(0, 3),
        "strided": torch.stack([x, x + 9], -1)[..., 0],
        "double": x.double(),
    }[arrange]
    monkeypatch.setattr(module, "CHUNK", 7)
    made = Histogram()
    made.update(arranged)
    assert outcome(made) == outcome(whole)


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


@given(split_streams(numbers))
def test_a_histogram_is_made_again_from_its_extremes_and_counts(streams: tuple[list[float], list[list[float]]]) -> None:
    whole, batches = streams
    made = histogram(*batches)
    again = Histogram.of(made.low, made.high, made.counts.clone())
    assert outcome(again) == outcome(made)
    made.update(torch.tensor(whole))
    again.update(torch.tensor(whole))
    assert outcome(again) == outcome(made)


@pytest.mark.parametrize(("low", "high"), [(1.0, -1.0), (float("nan"), 1.0), (-float("inf"), 1.0)])
def test_extremes_that_are_no_range_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="no range"):
        Histogram.of(low, high, torch.ones(BINS, dtype=torch.int64))


@pytest.mark.parametrize(("place", "count"), [(0, 0), (0, -1), (BINS - 1, 1), (900, -1)])
def test_counts_that_do_not_fit_the_extremes_are_refused(place: int, count: int) -> None:
    made = histogram([0.0, 1.0])
    made.counts[place] = count
    with pytest.raises(ValueError, match="don't fit"):
        Histogram.of(made.low, made.high, made.counts)
