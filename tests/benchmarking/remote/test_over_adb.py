"""Android devices: a program that behaves as ``adb`` is documented to. Contract-tested, not executed on a phone."""

import sys

import pytest

from rescompress.benchmarking import benchmark
from rescompress.benchmarking.remote.device import Device
from rescompress.benchmarking.remote.links import Lost, dialled
from rescompress.errors import BackendMissing
from tests.benchmarking.remote.test_vendors import TOOL, tflite

ADB = """#!{python}
# adb [-s SERIAL] push LOCAL REMOTE | shell COMMAND...
import shutil, subprocess, sys
here = {here!r}
asked = sys.argv[1:]
assert asked[0] == "-s", asked
if asked[1] != "R58M":
    sys.exit("adb: device '" + asked[1] + "' not found")
if asked[2] == "push":
    shutil.copyfile(asked[3], asked[4].replace("/data/local/tmp", here))
    print("1 file pushed, 0 skipped.")
elif asked[2] == "shell":
    # adb joins its words with spaces and gives them to the device's shell; the exit status comes back
    script = " ".join(asked[3:]).replace("/data/local/tmp", here)
    done = subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL)
    sys.exit(done.returncode)
"""


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """The folder that stands for ``/data/local/tmp``."""
    here, bin_ = tmp_path / "data", tmp_path / "bin"
    here.mkdir()
    bin_.mkdir()
    (bin_ / "adb").write_text(ADB.format(python=sys.executable, here=str(here)))
    (bin_ / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_), prepend=":")
    monkeypatch.setenv("RESCOMPRESS_CACHE", str(tmp_path / "client"))
    monkeypatch.setenv("RESCOMPRESS_DEVICE_PYTHON", "/nowhere/python3")
    return here


def test_a_phone_is_timed_by_benchmark_model(phone, pictures, tmp_path):
    (phone / "benchmark_model").write_text(TOOL)
    (phone / "benchmark_model").chmod(0o755)
    row, _ = benchmark([tflite(tmp_path, "one"), tflite(tmp_path, "three")], pictures, launches=2, device="adb://R58M")
    assert [latency.p50_ms for latency in row.latencies] == pytest.approx([1.003, 1.005])
    assert row.device.startswith("adb: ")
    assert "R58M" not in row.device + str(row.conditions)
    assert row.conditions["benchmark_model"] == "benchmark_model"
    left = {path.name for path in phone.rglob("*") if path.is_file()}
    assert "benchmark_model" in left
    assert all(len(name) == 64 for name in left - {"benchmark_model"})


def test_a_phone_without_the_tool_says_so(phone, pictures, tmp_path):
    with pytest.raises(BackendMissing, match="no tool of the vendor's"):
        benchmark([tflite(tmp_path, "one")], pictures, launches=2, device="adb://R58M")
    assert not (phone / "rescompress.lock").exists()


def test_a_phone_that_isnt_there_is_told(phone):
    with pytest.raises(BackendMissing, match="device 'nope' not found"):
        Device(dialled("adb://nope"))


def test_a_push_that_fails_is_lost(phone, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(Lost):
        dialled("adb://R58M").send(tmp_path / "file", "/data/local/tmp/no such folder/file")
