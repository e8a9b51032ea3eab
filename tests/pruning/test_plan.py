"""How many channels stay, and which."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rescompress.pruning import Group, plan
from rescompress.pruning.groups import Member
from rescompress.pruning.plan import rounded_width

channels = st.integers(1, 4096)
ratios = st.floats(0.001, 0.999)
multiples = st.integers(1, 128)


def group(width: int) -> Group:
    return Group(width, (Member("conv", "outputs", tuple((place,) for place in range(width))),))


@given(channels, ratios, multiples)
def test_a_width_is_a_multiple_or_all_there_is(width: int, ratio: float, round_to: int) -> None:
    kept = rounded_width(width, ratio, round_to)
    assert min(width, round_to) <= kept <= width
    assert kept % round_to == 0 or kept == width


@given(channels, ratios, multiples)
def test_no_other_multiple_is_nearer(width: int, ratio: float, round_to: int) -> None:
    target = width * (1 - ratio)
    away = abs(rounded_width(width, ratio, round_to) - target)
    assert all(away <= abs(other - target) + 1e-6 for other in range(round_to, width + 1, round_to))


@given(channels, ratios, ratios, multiples)
def test_a_larger_ratio_never_keeps_more(width: int, one: float, other: float, round_to: int) -> None:
    less, more = sorted((one, other))
    assert rounded_width(width, more, round_to) <= rounded_width(width, less, round_to)


@pytest.mark.parametrize(
    ("width", "ratio", "round_to", "kept"),
    [(64, 0.3, 8, 48), (64, 0.3, 16, 48), (16, 0.3, 16, 16), (64, 0.3, 1, 45), (64, 0.99, 8, 8), (24, 0.5, 8, 16)],
)
def test_known_widths(width: int, ratio: float, round_to: int, kept: int) -> None:
    assert rounded_width(width, ratio, round_to) == kept


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), ratios, st.integers(1, 8))
def test_every_channel_kept_is_worth_at_least_every_one_cut(scores: list[float], ratio: float, round_to: int) -> None:
    (cut,) = plan([group(len(scores))], [torch.tensor(scores)], ratio=ratio, round_to=round_to)
    assert list(cut.kept) == sorted(set(cut.kept))
    gone = set(range(len(scores))) - set(cut.kept)
    assert len(cut.kept) == rounded_width(len(scores), ratio, round_to)
    assert all(scores[kept] >= scores[other] for kept in cut.kept for other in gone)


def test_ties_keep_the_lower_channels() -> None:
    (cut,) = plan([group(8)], [torch.ones(8)], ratio=0.5, round_to=1)
    assert cut.kept == (0, 1, 2, 3)
