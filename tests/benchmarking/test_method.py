"""Warm-up and blocks with workers whose clock is made up."""

import itertools
import random

import numpy as np
import pytest

from rescompress.benchmarking import method
from rescompress.benchmarking.method import Plan


class Made:
    """A worker whose queries take what a list says, over and over, without waiting for it."""

    compute_ns = ()

    def __init__(self, *milliseconds):
        self._milliseconds = itertools.cycle(milliseconds)
        self.asked = []

    def time(self, seconds, batch, at_least=1):
        self.asked.append((seconds, at_least))
        ns = []
        while sum(ns) < seconds * 1e9 or len(ns) < at_least:
            ns.append(round(next(self._milliseconds) * 1e6))
        return ns


def windows(*of_each):
    """Milliseconds of queries so that each window, of 0.1 s and five queries at least, has this median."""
    return [of_one for of_one in of_each for _ in range(max(5, round(100 / of_one)))]


@pytest.mark.parametrize(
    ("medians", "taken"),
    [((10, 10), 2), ((20, 10, 10), 3), ((10, 10.1), 2), ((50, 25, 20, 10, 10), 5)],
)
def test_warm_up_ends_when_two_windows_agree(medians, taken):
    worker = Made(*windows(*medians))
    assert method._warm_up(worker, 1)
    assert len(worker.asked) == taken
    assert sum(seconds for seconds, _ in worker.asked) >= 0.2
    assert sum(at_least for _, at_least in worker.asked) >= 10


def test_warm_up_that_never_rests_is_told(monkeypatch):
    now = itertools.count(0, 1.0)
    monkeypatch.setattr(method.time, "monotonic", lambda: next(now))
    worker = Made(*windows(10, 20))
    assert not method._warm_up(worker, 1)
    assert 30 <= len(worker.asked) <= 33


def test_quick_models_have_all_rounds_and_slow_ones_ten():
    for milliseconds, rounds in ((1, 40), (30, 10)):
        taken = method._interleaved([Made(milliseconds)] * 2, Plan(1, 1, 40, 0.01), random.Random(0))
        assert [len(one.blocks) for one in taken] == [rounds] * 2


def test_rounds_go_on_until_the_quickest_was_measured_long_enough():
    slow, quick = method._interleaved([Made(30), Made(1)], Plan(1, 1, 40, 0.01), random.Random(0))
    assert len(slow.blocks) == len(quick.blocks) == 40
    assert all(block.size >= 2 for block in slow.blocks)
    assert quick.seconds == pytest.approx(sum(map(np.sum, quick.blocks)) / 1e9)
