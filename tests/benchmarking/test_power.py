"""How often simulated benchmarks on a machine with bursts tell the truth, find 5 % and 10 %, and raise false alarms.

Each launch has its own speed (5 %) and each process its own luck (1 %); phases that last three rounds on average slow
all down by 20 % to 80 %, bursts hit single blocks by 10 % to 100 %, and blocks (1 %) and queries (3 %) have their own
noise. The estimate is written out here a second time, over whole arrays, and compared with that of the package.
"""

import numpy as np
import pytest

from rescompress import benchmarking
from rescompress.benchmarking import length, rows, statistics
from rescompress.benchmarking.statistics import Estimate
from rescompress.benchmarking.validity import differs
from rescompress.timing import LatencyRow

TRUE = np.array([1, 1, 1.05, 1.1, 1])
"""The baseline, its equal, two that are slower, and the copy of the baseline."""
BENCHMARKS, ROUNDS, QUERIES = 400, 20, 8


def launch(rng: np.random.Generator, luck: float = 0.01) -> np.ndarray:
    """Latencies of one launch ``[candidates, rounds, queries]``."""
    count = len(TRUE)
    turns = np.argsort(rng.random((ROUNDS, count)), axis=1) + count * np.arange(ROUNDS)[:, None]
    phase = np.cumsum(rng.random(count * ROUNDS) < 1 / (3 * count))
    slow = np.where(phase % 2, rng.uniform(1.2, 1.8, phase[-1] + 1)[phase], 1.0)[turns].T
    burst = np.where(rng.random((count, ROUNDS)) < 0.05, rng.uniform(1.1, 2, (count, ROUNDS)), 1.0)
    speed = TRUE * np.exp(rng.normal(0, 0.05) + rng.normal(0, luck, count))
    blocks = speed[:, None] * slow * burst * np.exp(rng.normal(0, 0.01, (count, ROUNDS)))
    return blocks[:, :, None] * np.exp(rng.normal(0, 0.03, (count, ROUNDS, QUERIES)))


def of_rounds(times: np.ndarray) -> np.ndarray:
    """Ratio of each candidate to the first in one launch."""
    medians = np.log(np.median(times, axis=2))
    return np.exp(np.median(medians - medians[0], axis=1))


def measured(rng: np.random.Generator, fewest: int, most: int, luck: float) -> list[Estimate]:
    """One benchmark: as many launches as it takes."""
    launches = [of_rounds(launch(rng, luck)) for _ in range(fewest)]
    while True:
        found = [statistics.geometric_mean(of_one, rng) for of_one in np.array(launches).T[1:]]
        if len(launches) >= most or length.enough(found):
            return found
        launches.append(of_rounds(launch(rng, luck)))


def told(found: list[Estimate]) -> list[bool]:
    """Which candidates differ by the rule that reports go by."""
    latencies = [LatencyRow("", "", 1, 1, 1, 1, 1, 1, 0, one.value, one.low, one.high, ()) for one in found[:-1]]
    return [differs(latency, rows.noise_floor(found[-1])) for latency in latencies]


def test_simulated_estimate_is_the_packages():
    rng = np.random.default_rng(0)
    launches = [launch(rng) for _ in range(5)]
    for i in range(len(TRUE)):
        expected = np.exp(np.mean([np.log(of_rounds(one)[i]) for one in launches]))
        mine, theirs = ([list(one[k]) for one in launches] for k in (i, 0))
        assert statistics.paired(mine, theirs, rng).value == pytest.approx(expected)


@pytest.mark.parametrize(("most", "luck"), [(5, 0.01), (20, 0.01), pytest.param(20, 0.03, marks=pytest.mark.slow)])
def test_intervals_hold_the_truth_and_differences_are_found(most, luck):
    rng = np.random.default_rng(most)
    runs = [measured(rng, 5, most, luck) for _ in range(BENCHMARKS)]
    held = [[one.low <= true <= one.high for one, true in zip(found, TRUE[1:], strict=True)] for found in runs]
    alarms, five, ten = np.mean([told(found) for found in runs], axis=0)
    assert min(np.mean(held, axis=0)) >= 0.93
    assert alarms <= 1 / 50
    if most == 20:
        assert five >= 0.9
        assert ten >= 0.99


@pytest.mark.parametrize(("launches", "max_launches", "most"), [(5, 20, 20), (5, 3, 5), (2, 20, 2), (8, 5, 8)])
def test_who_asks_for_few_launches_gets_few(launches, max_launches, most):
    assert length.most(launches, max_launches) == most


@pytest.mark.parametrize(
    ("ratios", "answer"),
    [
        ([(0.99, 1.0, 1.01), (0.99, 1.0, 1.01)], True),
        ([(0.99, 1.0, 1.03), (0.99, 1.0, 1.01)], False),  # a wide candidate
        ([(1.98, 2.0, 2.02), (0.99, 1.0, 1.01)], True),  # a slow one is no wide one
        ([(0.99, 1.0, 1.01), (1.01, 1.02, 1.03)], False),  # narrow, but equal copies differ
    ],
)
def test_enough_is_when_all_intervals_and_the_floor_are_narrow(ratios, answer):
    assert length.enough([Estimate(value, low, high) for low, value, high in ratios]) is answer


@pytest.mark.parametrize(("quiet_after", "most", "made"), [(0, 9, 5), (7, 9, 7), (99, 9, 9), (99, 5, 5)])
def test_launches_go_on_until_they_are_enough(quiet_after, most, made, monkeypatch):
    launches = iter(range(99))
    monkeypatch.setattr(rows, "ratios", lambda candidates, done, rng: done)
    monkeypatch.setattr(length, "enough", lambda done: len(done) >= quiet_after)
    assert benchmarking._launched(lambda: next(launches), None, 5, most) == list(range(made))
