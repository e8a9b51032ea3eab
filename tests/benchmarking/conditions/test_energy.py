"""Energy by counters that a test turns, while a fake clock passes."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescompress.benchmarking.candidates import gathered
from rescompress.benchmarking.conditions import energy, meters
from rescompress.benchmarking.conditions.meters import Board, NvmlCounter, Rapl
from rescompress.benchmarking.conditions.nvml import Gpu
from rescompress.timing import BenchmarkRow, LatencyRow
from tests.benchmarking.conditions.fake_nvml import Nvml
from tests.benchmarking.conditions.tree import lay

ZONE = "sys/class/powercap/intel-rapl"
RANGE = 262_143_328_850
Pass = Callable[[float, float], None]


def server(root: Path, package: int = 0, dram: int = 0):
    return lay(root, {
        f"{ZONE}:0/name": "package-0", f"{ZONE}:0/energy_uj": package, f"{ZONE}:0/max_energy_range_uj": RANGE,
        f"{ZONE}:0:0/name": "core", f"{ZONE}:0:0/energy_uj": 77, f"{ZONE}:0:0/max_energy_range_uj": RANGE,
        f"{ZONE}:0:1/name": "dram", f"{ZONE}:0:1/energy_uj": dram, f"{ZONE}:0:1/max_energy_range_uj": 65_532_610_987,
        f"{ZONE}:1/name": "psys", f"{ZONE}:1/energy_uj": 88, f"{ZONE}:1/max_energy_range_uj": RANGE,
    })  # fmt: skip


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Pass:
    """Let seconds pass at once; ``time.sleep`` does so too, at the idle machine's watts."""
    now = [100.0]

    def passes(seconds: float, watts: float) -> None:
        now[0] += seconds
        passes.turn(seconds * watts)  # type: ignore[attr-defined]

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: passes(seconds, 20.0))
    return passes


def test_rapl_leaves_out_the_idle_machine(tmp_path: Path, passing: Pass) -> None:
    """50 W, of which 20 W when idle, over 10 s and 2,000 queries: 300 J, so 150 mJ each."""
    files = server(tmp_path, package=RANGE - 10)
    spent = [RANGE - 10]

    def turn(joules: float) -> None:
        spent[0] = round(spent[0] + joules * 1e6) % RANGE
        server(tmp_path, package=spent[0])

    passing.turn = turn  # type: ignore[attr-defined]

    def query(seconds: float) -> list[int]:
        passing(seconds, 50.0)
        return [1] * round(200 * seconds)

    meter, hindrance = meters.found(files, None, on_gpu=False)
    assert isinstance(meter, Rapl)
    assert not hindrance
    found = energy.of_queries(query, meter)
    assert found.mj == pytest.approx(150, rel=1e-6)
    assert found.said == "ESTIMATE by RAPL (dram-0, package-0): 50.0 W over 10 s, of which 20.0 W when idle"


def test_what_costs_no_more_than_idling_is_unavailable_and_not_0(tmp_path: Path, passing: Pass) -> None:
    files, spent = server(tmp_path), [0.0]

    def turn(joules: float) -> None:
        spent[0] += joules
        server(tmp_path, package=round(spent[0] * 1e6))

    passing.turn = turn  # type: ignore[attr-defined]
    meter, _ = meters.found(files, None, on_gpu=False)
    assert meter

    def query(seconds: float) -> list[int]:
        passing(seconds, 19.0)
        return [1]

    assert energy.of_queries(query, meter).mj is None
    assert energy.of_queries(query, meter).said.startswith("unavailable: RAPL")


@given(st.integers(0, RANGE - 1), st.integers(0, RANGE - 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_counter_that_starts_again_at_0_is_followed(tmp_path: Path, before: int, spent: int) -> None:
    files = server(tmp_path, package=before)
    meter = Rapl(files, {"package-0": Path(f"{ZONE}:0")})
    _, joules = meter.measured(lambda: server(tmp_path, package=(before + spent) % RANGE))
    assert joules == pytest.approx(spent / 1e6)


def test_packages_and_their_memory_are_added(tmp_path: Path) -> None:
    meter, _ = meters.found(server(tmp_path), None, on_gpu=False)
    assert meter
    done, joules = meter.measured(lambda: server(tmp_path, package=3_000_000, dram=500_000) and "done")
    assert (done, joules) == ("done", 3.5)


def test_why_nothing_is_told(tmp_path: Path) -> None:
    empty = lay(tmp_path / "empty", {})
    closed = lay(tmp_path / "closed", {f"{ZONE}:0/name": "package-0"})
    assert meters.found(empty, None, on_gpu=False) == (None, "this machine has no counter of energy")
    assert meters.found(closed, None, on_gpu=False) == (None, "this user may not read RAPL's counters")
    assert meters.found(server(tmp_path), None, on_gpu=True) == (None, "the GPU tells no energy")
    part = Nvml()
    part.part = True
    assert meters.found(empty, Gpu(part, "a part", "handle 0"), on_gpu=True)[0] is None


def test_a_gpu_has_its_own_counter(tmp_path: Path) -> None:
    fake = Nvml()
    meter, _ = meters.found(server(tmp_path), Gpu(fake, "handle 0", "handle 0"), on_gpu=True)
    assert isinstance(meter, NvmlCounter)

    def work() -> None:
        fake.millijoules += 2500

    assert meter.measured(work)[1] == 2.5


def test_a_jetson_has_a_sensor_of_its_board(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon3"
    files = lay(tmp_path, {
        f"{chip}/in1_label": "VDD_CPU", f"{chip}/in1_input": 5000, f"{chip}/curr1_input": 100,
        f"{chip}/in2_label": "VDD_IN", f"{chip}/in2_input": 5000, f"{chip}/curr2_input": 2000,
    })  # fmt: skip
    meter, _ = meters.found(files, None, on_gpu=True)
    assert isinstance(meter, Board)
    begin = time.monotonic()
    _, joules = meter.measured(lambda: time.sleep(0.05))
    assert 10 * 0.05 <= joules <= 10 * (time.monotonic() - begin)


def test_a_row_gets_the_energy_of_each_artifact(spinning, images, tmp_path, monkeypatch) -> None:
    """A fake meter that tells 1 J whenever the machine waits and 6 J when it works."""
    candidates = gathered([spinning("one"), spinning("two", 1.0)], images, 1)
    latency = LatencyRow("one", "spinning", 1, 1.0, 1.0, 1.0, None, 1.0, 0.0, 1.0, 1.0, 1.0, ())
    plain = BenchmarkRow(1, 1, 5, (latency, latency), 0.0, "VALID", (), "", conditions={"governor": "powersave"})
    bare = energy.told(plain, candidates, lay(tmp_path, {}))
    assert [one.energy_mj for one in bare.latencies] == [None, None]
    assert bare.conditions == {
        "governor": "powersave", "energy": "unavailable: this machine has no counter of energy",
    }  # fmt: skip
    asked = []

    class Meter:
        name = "a fake"

        def measured(self, do):
            asked.append(do())
            return asked[-1], 6.0 if asked[-1] else 1.0

    of_queries = energy.of_queries
    monkeypatch.setattr(meters, "found", lambda *_: (Meter(), ""))
    monkeypatch.setattr(energy, "of_queries", lambda query, meter: of_queries(query, meter, steady=0.2, idle=0.2))
    row = energy.told(plain, candidates)
    queries = [len(ns) for ns in asked if ns]
    assert len(queries) == 2
    assert all(0 < one.energy_mj < 6000 / count for one, count in zip(row.latencies, queries, strict=True))
    assert row.conditions["energy"].startswith("ESTIMATE by a fake: ")
