"""Series of clocks and temperatures: how they are read, and what is made of them."""

import itertools
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescompress.benchmarking.conditions import sampling
from rescompress.benchmarking.conditions.files import Files
from rescompress.benchmarking.conditions.sampling import Processor, Sampler
from tests.benchmarking.conditions.tree import CPU, lay

clocks = st.lists(st.floats(400, 6000), min_size=sampling.FEWEST, max_size=60)


def test_samples_are_read_while_it_is_entered_and_only_then() -> None:
    numbers = itertools.count()
    sampler = Sampler(lambda: {"a": float(next(numbers))}, period=0.002)
    with sampler:
        time.sleep(0.05)
    count = len(sampler.series["a"])
    time.sleep(0.01)
    assert len(sampler.series["a"]) == count >= 3
    with sampler:
        pass
    assert len(sampler.series["a"]) > count
    assert sampler.series["a"] == [float(number) for number in range(len(sampler.series["a"]))]


def test_the_clock_is_of_the_fastest_cpu_and_the_heat_of_the_processor(tmp_path: Path) -> None:
    told: dict[str, object] = {
        f"{CPU}/cpu0/cpufreq/scaling_cur_freq": 800_000,
        f"{CPU}/cpu1/cpufreq/scaling_cur_freq": 3_500_000,
        "sys/class/hwmon/hwmon0/name": "nvme",
        "sys/class/hwmon/hwmon0/temp1_input": 90_000,
        "sys/class/thermal/thermal_zone0/temp": 40_000,
    }
    assert Processor(lay(tmp_path, told)).read() == {"clock": 3500, "temperature": 40}
    chip = {f"sys/class/hwmon/hwmon1/{name}": value for name, value in (("name", "k10temp"), ("temp1_input", 61_500))}
    processor = Processor(lay(tmp_path, chip))
    assert processor.read() == {"clock": 3500, "temperature": 61.5}
    lay(tmp_path, {f"{CPU}/cpu1/cpufreq/scaling_cur_freq": 700_000})
    assert processor.read() == {"clock": 800, "temperature": 61.5}
    assert Processor(Files(tmp_path / "nothing")).read() == {}


@given(clocks)
def test_a_drop_is_a_share_and_needs_no_direction(series: list[float]) -> None:
    fall = sampling.drop(series)
    assert fall is not None
    assert 0 <= fall < 1
    assert sampling.drop([2 * value for value in series]) == pytest.approx(fall)


@given(st.floats(500, 5000), st.integers(3, 20), st.floats(0, 0.9), st.permutations(range(3)))
def test_a_third_that_ran_slower_is_found_wherever_it_is(
    clock: float, third: int, share: float, order: tuple[int, ...]
) -> None:
    parts = [[clock * (1 - share)] * third, [clock] * third, [clock] * third]
    series = [value for place in order for value in parts[place]]
    assert sampling.drop(series) == pytest.approx(share, abs=1e-9)


def test_one_odd_sample_is_no_drop() -> None:
    assert sampling.drop([3000.0] * 10 + [400.0] + [3000.0] * 10) == 0


def test_a_plateau_is_told_from_a_slope() -> None:
    slope = [40 + 0.5 * i for i in range(40)]
    assert sampling.still_rising(slope) == pytest.approx(5)
    assert sampling.still_rising([min(50.0, value) for value in slope]) == 0
    assert sampling.still_rising(slope[::-1]) == pytest.approx(-5)


@pytest.mark.parametrize("series", [[], [50.0] * (sampling.FEWEST - 1)])
def test_too_few_samples_tell_no_trend(series: list[float]) -> None:
    assert sampling.drop(series) is None
    assert sampling.still_rising(series) is None


def test_series_in_words() -> None:
    assert sampling.spread([1000, 2000, 3000], "MHz") == "1000 / 2000 / 3000 MHz (min / mean / max)"
    assert sampling.ends([40.2, 90, 55], "°C") == "40 to 55 °C"
    assert (sampling.spread(None, "MHz"), sampling.ends([], "°C")) == ("unavailable", "unavailable")
