"""Between measured widths: exact where measured, exact for what is bilinear, never beyond its corners."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescompress.benchmarking import lattice
from rescompress.benchmarking.lattice import Lattice
from rescompress.benchmarking.layers import LayerShape

WIDTHS = st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True).map(lambda found: tuple(sorted(found)))
FACTORS = st.tuples(*[st.floats(-10, 10)] * 4)


@given(WIDTHS, WIDTHS, st.randoms(use_true_random=False))
def test_measured_pairs_are_themselves(ins, outs, random):
    known = {pair: random.random() for pair in product(ins, outs)}
    grid = Lattice(ins, outs)
    assert {pair: grid.between(pair, known.__getitem__) for pair in grid.pairs} == pytest.approx(known)


@given(FACTORS, st.integers(1, 99), st.integers(1, 99))
def test_what_is_bilinear_is_told_exactly_even_outside(factors, a, b):
    p, q, r, s = factors

    def cost(pair):
        return p + q * pair[0] + r * pair[1] + s * pair[0] * pair[1]

    assert Lattice((8, 24, 64), (16, 40)).between((a, b), cost) == pytest.approx(cost((a, b)), abs=1e-6)


@given(st.integers(8, 64), st.integers(8, 63), st.randoms(use_true_random=False))
def test_it_rises_between_where_the_measured_ones_rise(a, b, random):
    widths = (8, 16, 40, 64)
    steps = {pair: random.random() for pair in product(widths, widths)}
    known = {(i, j): sum(steps[pair] for pair in steps if pair[0] <= i and pair[1] <= j) for i, j in steps}
    grid = Lattice(widths, widths)
    assert grid.between((a, b), known.__getitem__) <= grid.between((a, b + 1), known.__getitem__) + 1e-9
    assert min(known.values()) - 1e-9 <= grid.between((a, b), known.__getitem__) <= max(known.values()) + 1e-9


@given(st.sets(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1))
def test_lattice_is_no_more_work_than_the_pairs_and_spans_them(asked):
    chosen = lattice.chosen(asked)
    if chosen is None:
        assert len(asked) <= lattice.MOST_WIDTHS**2
        return
    assert len(chosen.pairs) < len(asked)
    for side, widths in ((0, chosen.ins), (1, chosen.outs)):
        assert (widths[0], widths[-1]) == (min(p[side] for p in asked), max(p[side] for p in asked))
        assert set(widths) <= {pair[side] for pair in asked}


@pytest.mark.parametrize(
    "shape",
    [
        LayerShape("conv", 24, 40, (3, 3), (2, 2), (1, 1), height=9, width=7),
        LayerShape("conv", 32, 64, (3, 3), groups=8, height=9, width=7, added=True),
        LayerShape("conv", 16, 16, (3, 3), groups=16, height=4, width=4),
        LayerShape("linear", 64, 10),
    ],
)
def test_kind_and_widths_make_the_layer_again(shape):
    assert lattice.widened(lattice.kind(shape), lattice.widths(shape)) == shape


def test_layers_of_one_kind_differ_in_widths_only():
    wide, narrow = (LayerShape("conv", c, c, (3, 3), height=8, width=8) for c in (64, 8))
    assert lattice.kind(wide) == lattice.kind(narrow)
    assert lattice.kind(wide) != lattice.kind(LayerShape("conv", 64, 64, (1, 1), height=8, width=8))
    grouped = [LayerShape("conv", 4 * g, 4 * g, (3, 3), groups=g, height=8, width=8) for g in (2, 32)]
    assert lattice.kind(grouped[0]) == lattice.kind(grouped[1])
