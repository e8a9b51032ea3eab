"""How a machine is set up, read off trees of files that tests lay."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescompress.benchmarking.conditions import conditions
from rescompress.benchmarking.conditions.files import Files
from rescompress.benchmarking.conditions.settings import VARIABLES, ranges, settings
from tests.benchmarking.conditions.tree import CPU, lay

SERVER = {
    f"{CPU}/cpu0/cpufreq/scaling_governor": "performance",
    f"{CPU}/cpu1/cpufreq/scaling_governor": "powersave",
    f"{CPU}/cpu10/cpufreq/scaling_governor": "performance",
    f"{CPU}/intel_pstate/no_turbo": 1,
    f"{CPU}/smt/active": 1,
    f"{CPU}/isolated": "",
    "proc/cpuinfo": "processor\t: 0\nmicrocode\t: 0xb000040\nflags\t\t: fpu hypervisor avx2",
    "proc/self/cgroup": "0::/docker/8d2a",
    "proc/loadavg": "0.42 0.30 0.10 1/234 5678",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "sys/class/power_supply/AC/type": "Mains",
    "sys/class/power_supply/AC/online": 1,
    "sys/class/power_supply/BAT0/type": "Battery",
    "sys/class/power_supply/BAT0/status": "Full",
    "sys/class/dmi/id/sys_vendor": "QEMU",
    "sys/fs/cgroup/docker/8d2a/cpu.max": "150000 100000",
}


def test_a_server_tells_how_it_is_set_up(tmp_path: Path) -> None:
    found = conditions(lay(tmp_path, SERVER), {"OMP_NUM_THREADS": "4", "HOME": "/home/me"})
    del found["affinity"]
    assert found == {
        "governor": "performance, powersave",
        "turbo": "off",
        "SMT": "on",
        "isolated CPUs": "none",
        "microcode": "0xb000040",
        "huge pages": "madvise",
        "power supply": "mains",
        "power mode": "unavailable",
        "container": "docker",
        "virtualization": "virtual machine (QEMU)",
        "variables": "OMP_NUM_THREADS=4",
        "CPU quota": "1.50 CPUs",
        "load average": "0.42",
    }


def test_what_is_not_told_is_unavailable_and_never_0(tmp_path: Path) -> None:
    found = conditions(Files(tmp_path), {})
    del found["affinity"]
    assert found.pop("variables") == "none"
    assert set(found.values()) == {"unavailable"}


def test_a_folder_where_a_file_should_be_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / CPU / "smt" / "active").mkdir(parents=True)
    assert settings(Files(tmp_path), {})["SMT"] == "unavailable"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"intel_pstate/no_turbo": 0}, "on"),
        ({"intel_pstate/no_turbo": 1, "cpufreq/boost": 1}, "off"),
        ({"cpufreq/boost": 1}, "on"),
        ({"cpufreq/boost": 0}, "off"),
    ],
    ids=str,
)
def test_turbo_has_two_files_of_opposite_sense(told: dict[str, int], expected: str, tmp_path: Path) -> None:
    files = lay(tmp_path, {f"{CPU}/{path}": value for path, value in told.items()})
    assert settings(files, {})["turbo"] == expected


@pytest.mark.parametrize(
    ("mains", "battery", "expected"),
    [(0, "Discharging", "battery"), (1, "Discharging", "mains"), (0, "Unknown", "unavailable")],
)
def test_a_laptop_runs_on_mains_or_on_its_battery(mains: int, battery: str, expected: str, tmp_path: Path) -> None:
    supply = "sys/class/power_supply"
    files = lay(tmp_path, {
        f"{supply}/AC/type": "Mains", f"{supply}/AC/online": mains,
        f"{supply}/BAT0/type": "Battery", f"{supply}/BAT0/status": battery,
    })  # fmt: skip
    assert settings(files, {})["power supply"] == expected


def test_a_jetson_tells_its_power_mode(tmp_path: Path) -> None:
    files = lay(tmp_path, {"var/lib/nvpmodel/status": "pmode:0002 fmode:fanNull"})
    assert settings(files, {})["power mode"] == "nvpmodel 2"
    lay(tmp_path, {"etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=30W >"})
    assert settings(files, {})["power mode"] == "nvpmodel 2 (30W)"


def test_no_value_tells_a_path_or_a_serial_number() -> None:
    told = {
        "LD_PRELOAD": "/usr/lib/libjemalloc.so",
        "CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
        "KMP_AFFINITY": "granularity=fine,compact,1,0",
        "SECRET": "42",
    }
    said = settings(Files(Path("/nowhere")), told)["variables"]
    assert said == "KMP_AFFINITY=granularity=fine,compact,1,0, CUDA_VISIBLE_DEVICES is set, LD_PRELOAD is set"


@given(st.dictionaries(st.sampled_from((*VARIABLES, "TOKEN", "PATH")), st.just("42"), max_size=9))
def test_variables_outside_the_list_are_never_told(variables: dict[str, str]) -> None:
    said = settings(Files(Path("/nowhere")), variables)["variables"]
    assert {part.partition("=")[0] for part in said.split(", ")} - {"none"} == set(variables) & set(VARIABLES)


@given(st.sets(st.integers(0, 300)))
def test_ranges_are_those_of_the_kernel(numbers: set[int]) -> None:
    text = ranges(sorted(numbers))
    parts = [part.split("-") for part in text.split(",") if part]
    back = [number for part in parts for number in range(int(part[0]), int(part[-1]) + 1)]
    assert back == sorted(numbers)
    assert all(int(b[0]) > int(a[-1]) + 1 for a, b in itertools.pairwise(parts))
