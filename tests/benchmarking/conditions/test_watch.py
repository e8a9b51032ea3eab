"""A machine that is watched while something is timed; what was seen becomes words and reasons."""

import sys
import time
from pathlib import Path

import pytest

from rescompress.artifact import Manifest
from rescompress.benchmarking.conditions import Watch, gpu_queries, on_gpu
from rescompress.benchmarking.conditions.disturbance import Disturbance, reasons, unseen
from rescompress.benchmarking.conditions.files import Files
from tests.benchmarking.conditions.fake_nvml import Nvml
from tests.benchmarking.conditions.tree import CPU, lay

FAULTS = "S 1 2 3 0 -1 4194304 1000 2000 {} 6 7 8"
QUIET = Disturbance(
    seconds=10.0, held_back=0, overheated=0, swapped=10, major_faults=10, starved=0.01, clock_drop=0.05, warming=3.0,
    on_battery=False, gpu=True, gpu_throttled=(), gpu_clock_drop=0.05, gpu_warming=3.0, gpu_others=0,
)  # fmt: skip


def machine(root: Path, khz: int, throttled: int, faults: int) -> Files:
    return lay(root, {
        "proc/loadavg": "0.10 0.20 0.30 1/2 3",
        "proc/vmstat": f"pswpin {throttled}\npswpout 0",
        "proc/7/stat": f"7 (a) {FAULTS.format(faults)}",
        "proc/8/stat": f"8 (a) {FAULTS.format(2 * faults)}",
        f"{CPU}/cpu0/cpufreq/scaling_cur_freq": khz,
        f"{CPU}/cpu0/thermal_throttle/core_throttle_count": throttled,
    })  # fmt: skip


def test_only_what_happens_while_something_is_timed_counts(tmp_path: Path) -> None:
    files = machine(tmp_path, 3_000_000, 0, 0)
    with Watch(files=files, variables={}, period=0.002) as watch:
        machine(tmp_path, 3_000_000, 5, 50)  # loading
        for clock, count in ((3_000_000, 7), (2_000_000, 8)):
            with watch.timed([7, 8]):
                machine(tmp_path, clock, count, 50 + count)
                time.sleep(0.05)
            machine(tmp_path, 3_000_000, 7, 57)
    seen, told = watch.disturbance(), watch.conditions()
    assert (seen.overheated, seen.swapped, seen.major_faults) == (2 + 1, 3, 3 * (7 + 1))
    assert seen.clock_drop == pytest.approx(1 / 3)
    assert 0.1 <= seen.seconds < 5
    assert told["thermal throttling"] == "3 times"
    assert told["load average"] == "0.10 before, 0.10 after"
    assert told["CPU clock"].startswith("2000 / ")
    assert told["CPU temperature"] == told["governor"] == "unavailable"
    assert "GPU" not in told
    assert watch.device_bytes == [(None, None)] * 2


def test_a_system_that_tells_nothing_gives_no_number(tmp_path: Path) -> None:
    with Watch(files=Files(tmp_path), variables={}) as watch, watch.timed([7]):
        pass
    seen = watch.disturbance()
    assert list(reasons(seen)) == []
    assert "throttling, thermal throttling, swapping, major faults, the processor's clock" in next(unseen(seen))
    told = watch.conditions()
    assert {told[name] for name in ("swap", "major faults", "memory pressure", "CPU clock")} == {"unavailable"}


def test_a_gpu_is_watched_with_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    fake.running = {99: 5}
    with Watch(gpu=True, files=Files(tmp_path), variables={}, period=0.002) as watch:
        fake.running = {99: 5, 7: 2**30, 8: None}
        with watch.timed([8, 7]):
            time.sleep(0.03)
            fake.clock, fake.reasons, fake.degrees = 1500, 0x4, 60
            time.sleep(0.03)
        fake.running = {99: 5, 98: 6}
    seen, told = watch.disturbance(), watch.conditions()
    assert fake.opened == 0
    assert watch.device_bytes == [(None, 2**30)]
    assert (seen.gpu_others, seen.gpu_throttled) == (2, ("its power limit",))
    assert seen.gpu_clock_drop == pytest.approx(1 - 1500 / 1980)
    assert told["GPU"] == "NVIDIA H200"
    assert told["GPU throttling"] == "its power limit"
    assert told["GPU temperature"] == "41 to 60 °C"
    assert told["other programs on the GPU"] == "2"
    assert len(list(reasons(seen))) >= 3


def test_a_gpu_that_cannot_be_asked_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with Watch(gpu=True, files=Files(tmp_path), variables={}) as watch, watch.timed([7]):
        pass
    assert watch.conditions()["GPU"].startswith("unavailable: nvidia-ml-py is not installed")
    assert watch.disturbance().gpu_others is None
    assert "the GPU's throttling, its clock, what else runs on it" in next(unseen(watch.disturbance()))


def test_at_its_limits_nothing_counts_and_nothing_is_missing() -> None:
    assert list(reasons(QUIET)) == []
    assert list(unseen(QUIET)) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"held_back": 1}, "quota held the process back 1 times (throttling)"),
        ({"overheated": 2}, "throttled for its heat 2 times"),
        ({"gpu_throttled": ("its power limit", "a brake")}, "slowed down by its power limit, and by a brake"),
        ({"swapped": 11}, "swapped 11 pages in 10 s; 1 a second"),
        ({"major_faults": 11}, "waited for the disk for 11 pages in 10 s (major faults)"),
        ({"starved": 0.02}, "waited for memory in 2.0% of the time"),
        ({"clock_drop": 0.06}, "The processor's clock fell by 6.0% (clock drop)"),
        ({"gpu_clock_drop": 0.06}, "The GPU's clock fell by 6.0%"),
        ({"warming": 3.5}, "The processor was still getting warmer, by 3.5 °C"),
        ({"gpu_warming": 4.0}, "The GPU was still getting warmer"),
        ({"on_battery": True}, "ran on its battery"),
        ({"gpu_others": 1}, "1 other programs computed on the GPU (foreign load)"),
    ],
    ids=str,
)
def test_what_is_beyond_its_limit_is_the_only_reason(changed: dict[str, object], said: str) -> None:
    (reason,) = reasons(Disturbance(**{**vars(QUIET), **changed}))  # type: ignore[arg-type]
    assert said in reason


def test_where_no_gpu_is_timed_none_is_missed() -> None:
    assert list(unseen(Disturbance(**{**vars(QUIET), "gpu": False, "gpu_others": None}))) == []


def manifest(backend: str, label: str = "", **knobs: object) -> Manifest:
    return Manifest("", "", backend, label, "fp32", "", {}, None, "", "", "", knobs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backend", "knobs", "expected"),
    [
        ("tensorrt", {}, True),
        ("eager", {"device": "cuda"}, True),
        ("eager", {"device": "cpu"}, False),
        ("litert", {}, False),
    ],
)
def test_which_artifacts_run_on_a_gpu(backend: str, knobs: dict[str, object], expected: bool) -> None:
    assert on_gpu(manifest(backend, **knobs)) is expected
    assert bool(gpu_queries([manifest(backend, **knobs)])) is expected


def test_what_a_query_on_a_gpu_is_made_of() -> None:
    told = gpu_queries([
        manifest("onnxruntime", "00"), manifest("eager", "00", device="cuda"),
        manifest("inductor", "01", device="cuda", cuda_graphs=True),
    ])  # fmt: skip
    assert "copies" in told["GPU queries"]
    assert told["GPU launches"] == "00 eager: kernels one by one, 01 inductor: a CUDA graph"
