"""A device's own clock and the watch over the machine, through real processes of a fake runtime."""

import random

import numpy as np
import pytest

from rescompress.benchmarking import rows
from rescompress.benchmarking.conditions import Watch
from rescompress.benchmarking.method import Plan, launch


@pytest.fixture(scope="module")
def watched(spinning, images):
    """One launch of a candidate whose device counts half the host's time, and of one without such a clock."""
    folders = [spinning("00-accelerated", 0.5, fate="accelerated"), spinning("01-plain", 0.5)]
    with Watch(period=0.02) as watch:
        found = launch(folders, [images, images], Plan(2, 1, 10, 0.005), random.Random(0), watch)
    return found, watch


def test_every_query_has_its_time_on_the_device(watched):
    found, _ = watched
    assert found.compute_ns[0].size == sum(block.size for block in found.blocks[0]) > 0
    np.testing.assert_array_equal(found.compute_ns[0], 250_000)
    assert found.compute_ns[1].size == 0


def test_the_median_of_the_device_is_reported_where_every_launch_has_one(watched):
    found, _ = watched
    assert rows._compute_p50_ms([found, found], 0) == 0.25
    assert rows._compute_p50_ms([found, found], 1) is None


def test_the_watch_saw_the_processes_that_were_timed(watched):
    found, watch = watched
    seen = watch.disturbance()
    assert 0.1 <= seen.seconds < 60
    assert watch.device_bytes == [(None, None)]
    assert [cold.peak_device_bytes for cold in found.cold] == [None, None]
    assert seen.major_faults is None or seen.major_faults >= 0
    assert set(watch.conditions()) >= {"governor", "CPU quota", "swap", "CPU clock", "variables", "major faults"}
