"""What the GPU's own library tells, on a fake of it whose names are the real module's. Not executed on a GPU."""

import inspect
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescompress.benchmarking.conditions import nvml
from rescompress.benchmarking.conditions.nvml import Gpu
from tests.benchmarking.conditions.fake_nvml import Nvml


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvml]:
    fake = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    yield fake
    assert fake.opened == 0


def opened(**variables: str) -> Gpu:
    gpu, hindrance = nvml.opened(variables)
    assert gpu
    assert not hindrance
    return gpu


def test_the_real_module_has_every_name_and_takes_the_same_arguments() -> None:
    real = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed here.")
    for name, mine in vars(Nvml).items():
        if not name.lower().startswith("nvml"):
            continue
        theirs = getattr(real, name)
        if inspect.isfunction(mine):
            bare = inspect.unwrap(theirs)
            code = next((c.cell_contents for c in bare.__closure__ or () if inspect.isfunction(c.cell_contents)), bare)
            taken = [parameter for parameter in inspect.signature(mine).parameters if parameter != "self"]
            assert list(inspect.signature(code).parameters) == taken, name
        elif not isinstance(mine, type):
            assert theirs == mine, name
    assert {f"nvmlClocksEventReason{end}" for end in nvml.THROTTLING} <= set(vars(real))
    assert issubclass(real.NVMLError, Exception)


def test_a_gpu_tells_its_clocks_power_and_heat(fake: Nvml) -> None:
    gpu = opened()
    assert gpu.read() == {
        "GPU clock": 1980, "GPU memory clock": 3201, "GPU power": 350, "GPU temperature": 41, "GPU clock reasons": 0,
    }  # fmt: skip
    assert gpu.about() == {
        "GPU": "NVIDIA H200", "GPU driver": "580.95.05", "GPU power limit": "700 W", "GPU persistence": "on",
    }  # fmt: skip
    assert gpu.energy_mj() == 10**9
    gpu.close()


def test_an_idle_gpu_tells_no_clock(fake: Nvml) -> None:
    gpu = opened()
    fake.reasons = Nvml.nvmlClocksEventReasonGpuIdle
    assert "GPU clock" not in gpu.read()
    gpu.close()


def test_an_old_driver_is_asked_by_the_old_names(fake: Nvml) -> None:
    fake.reasons = 4
    fake.refused = {"nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons"}
    fake.refused |= {"nvmlDeviceIsMigDeviceHandle"}
    gpu = opened()
    assert (gpu.read()["GPU temperature"], gpu.read()["GPU clock reasons"]) == (41, 4)
    gpu.close()


def test_a_part_of_a_gpu_has_the_clocks_of_the_whole_and_no_counter(fake: Nvml) -> None:
    fake.part, fake.running = True, {7: 2**30}
    gpu = opened(CUDA_VISIBLE_DEVICES="MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f")
    assert gpu.read()["GPU clock"] == 1980
    assert gpu.energy_mj() is None
    assert gpu.about()["GPU"] == "NVIDIA H200, part of a GPU (MIG)"
    assert gpu.processes() == {7: 2**30}
    gpu.close()


@given(st.sets(st.sampled_from([name for name in vars(Nvml) if name.startswith("nvmlDeviceGet")])))
def test_what_is_refused_is_left_out(refused: set[str]) -> None:
    fake = Nvml()
    gpu = Gpu(fake, "handle 0", "handle 0")
    whole = gpu.read()
    fake.refused = refused
    assert set(gpu.read().items()) <= set(whole.items())
    assert (gpu.processes() is None) == ("nvmlDeviceGetComputeRunningProcesses" in refused)
    assert (gpu.energy_mj() is None) == ("nvmlDeviceGetTotalEnergyConsumption" in refused)


@pytest.mark.parametrize(
    ("visible", "handle"), [("1,0", "handle 1"), ("", "handle 0"), ("GPU-bbbb", "handle 1"), ("GPU-aaaa-1", "handle 0")]
)
def test_the_gpu_is_the_one_that_cuda_takes(visible: str, handle: str, fake: Nvml) -> None:
    gpu = opened(CUDA_VISIBLE_DEVICES=visible)
    assert gpu._handle == handle
    gpu.close()


@pytest.mark.parametrize(("visible", "said"), [("7", "Invalid Argument"), ("GPU-cccc", "no such GPU")])
def test_a_gpu_that_is_not_there_is_told(visible: str, said: str, fake: Nvml) -> None:
    gpu, hindrance = nvml.opened({"CUDA_VISIBLE_DEVICES": visible})
    assert gpu is None
    assert said in hindrance


def test_without_a_driver_the_library_is_not_opened(fake: Nvml) -> None:
    fake.refused = {"nvmlInit"}
    assert nvml.opened({}) == (None, "NVIDIA's management library says: Function Not Found")


def test_without_the_package_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpu, hindrance = nvml.opened({})
    assert gpu is None
    assert "pip install 'rescompress[nvml]'" in hindrance


def test_every_reason_to_be_slow_is_named_once() -> None:
    gpu = Gpu(Nvml(), "handle 0", "handle 0")
    assert gpu.throttling([0, 1, 2]) == ()
    assert gpu.throttling([4, 0x44, 4]) == ("its power limit", "its temperature, by the hardware")
    assert len(gpu.throttling([2**16 - 1])) == len(nvml.THROTTLING)


def test_what_is_told_without_timing(fake: Nvml) -> None:
    assert nvml.told()["GPU"] == "NVIDIA H200"
    fake.refused = {"nvmlInit"}
    assert nvml.told() == {"GPU": "unavailable: NVIDIA's management library says: Function Not Found"}
