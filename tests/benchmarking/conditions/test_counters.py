"""Counts between two readings, and quotas of both versions of control groups."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescompress.benchmarking.conditions import counters, quota
from rescompress.benchmarking.conditions.counters import Counters
from rescompress.benchmarking.conditions.files import Files
from tests.benchmarking.conditions.tree import CPU, lay

counts = st.builds(Counters, *[st.none() | st.integers(0, 10**12)] * 4)


def machine(root: Path, scale: int) -> Files:
    return lay(root, {
        "proc/self/cgroup": "0::/kubepods/pod1",
        "proc/vmstat": f"nr_free_pages 5\npswpin {3 * scale}\npswpout {2 * scale}",
        "proc/pressure/memory": f"some avg10=0.00 avg60=0.10 avg300=0.00 total={700 * scale}\nfull avg10=0 total=9",
        "sys/fs/cgroup/kubepods/pod1/cpu.stat": f"usage_usec 5\nnr_periods 9\nnr_throttled {scale}",
        "sys/fs/cgroup/kubepods/cpu.stat": f"nr_throttled {10 * scale}",
        f"{CPU}/cpu0/thermal_throttle/core_throttle_count": scale,
        f"{CPU}/cpu1/thermal_throttle/core_throttle_count": 0,
        f"{CPU}/cpu0/thermal_throttle/package_throttle_count": 4 * scale,
    })  # fmt: skip


def test_what_grew_is_counted(tmp_path: Path) -> None:
    before = counters.read(machine(tmp_path, 1))
    seen = counters.read(machine(tmp_path, 3)).since(before)
    assert seen == Counters(swapped=10, held_back=22, overheated=10, starved_us=1400)
    assert counters.told(seen) == {
        "quota throttling": "22 times",
        "thermal throttling": "10 times",
        "swap": "10 pages",
        "memory pressure": "1 ms waited for",
    }


def test_an_empty_system_counts_nothing_rather_than_0(tmp_path: Path) -> None:
    files = Files(tmp_path)
    seen = counters.read(files).since(counters.read(files))
    assert seen == Counters(None, None, None, None)
    assert set(counters.told(seen).values()) == {"unavailable"}
    assert counters.major_faults(files, [1, 2]) == {}


@given(counts, counts, counts)
def test_two_stretches_make_a_long_one(first: Counters, second: Counters, third: Counters) -> None:
    """Only what is told at all three readings can be compared; counters here grow from each to the next."""
    second, third = first.plus(second), first.plus(second).plus(third)
    assert second.since(first).plus(third.since(second)) == third.since(first)


def test_a_count_that_fell_is_0_and_not_negative() -> None:
    assert Counters(1, 2, 3, 4).since(Counters(5, 2, 1, 9)) == Counters(0, 0, 2, 0)


def test_major_faults_are_found_behind_any_name(tmp_path: Path) -> None:
    fields = "S 1 2 3 0 -1 4194304 1000 2000 {} 6 7 8"
    files = lay(tmp_path, {
        "proc/7/stat": f"7 (python3) {fields.format(12)}",
        "proc/8/stat": f"8 (a) b (c) 9 x) {fields.format(34)}",
        "proc/9/stat": "9 (zombie) Z",
    })  # fmt: skip
    assert counters.major_faults(files, [7, 8, 9, 10]) == {7: 12, 8: 34}


@pytest.mark.parametrize(
    ("told", "limit", "said"),
    [
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, float("inf"), "none"),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
                "sys/fs/cgroup/a/cpu.max": "50000 100000",
            },
            0.5,
            "0.50 CPUs",
        ),
        # a container without a namespace of its own: its group's name is the host's, its files lie at the root
        ({"proc/self/cgroup": "0::/docker/1f", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2, "2.00 CPUs"),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/1f\n3:cpuacct,cpu:/docker/1f\n0::/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": 300000,
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
            },
            3,
            "3.00 CPUs",
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1,
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
            },
            float("inf"),
            "none",
        ),
        ({"proc/self/cgroup": "0::/../outside", "sys/fs/outside/cpu.max": "1 100000"}, None, "unavailable"),
        ({}, None, "unavailable"),
    ],
    ids=str,
)
def test_quota(told: dict[str, object], limit: float | None, said: str, tmp_path: Path) -> None:
    files = lay(tmp_path, told)
    assert (quota.cores(files), quota.told(files)) == (limit, said)
