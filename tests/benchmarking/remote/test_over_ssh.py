"""A whole benchmark on a device behind a real sshd; connections that break, and a client that is stopped."""

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rescompress.artifact import sha256_of
from rescompress.benchmarking import remote
from rescompress.benchmarking.conditions import Watch
from rescompress.benchmarking.method import launch
from rescompress.cli import cli, guarded
from rescompress.errors import BackendMissing, InputRefused
from tests.benchmarking.remote.conftest import QUICK, free_port, made

pytestmark = pytest.mark.xdist_group("sshd")


def p50(launches, i):
    return float(np.median(np.concatenate([block for one in launches for block in one.blocks[i]])))


@pytest.fixture(scope="module")
def told(reached, candidates):
    return made(reached, candidates, 2, 0)


def test_a_device_tells_what_this_machine_would(reached, candidates, told):
    here = launch(candidates.folders, candidates.rings, QUICK, random.Random(0), Watch())
    assert len(told.launches) == 2
    for there in told.launches:
        assert [len(of_one) for of_one in there.blocks] == [QUICK.blocks] * 3
        assert all(len(block) >= 2 and block.dtype == np.int64 for of_one in there.blocks for block in of_one)
        for mine, its in zip(here.outputs, there.outputs, strict=True):
            np.testing.assert_array_equal(mine, its)  # the same machine, the same runtime: the same bits
        assert [len(of_one) for of_one in there.starts] == [QUICK.blocks] * 3
        assert all(cold.load_ms > 0 and cold.first_ms > 0 and cold.peak_rss_bytes > 1 << 20 for cold in there.cold)
    assert told.launches[0].starts[0][0] < told.launches[1].starts[0][0]
    # the large network has seven times the small one's arithmetic, here as there
    assert p50(told.launches, 1) > 1.5 * p50(told.launches, 0)
    assert p50([here], 0) / 5 < p50(told.launches, 0) < 5 * p50([here], 0)


def test_nothing_names_the_device_or_its_user(reached, told):
    said = " ".join([told.place.device, *told.place.conditions(), *told.place.conditions().values()])
    assert told.place.device.startswith("ssh: ")
    assert "127.0.0.1" not in said
    assert "root" not in said
    assert {"processor", "system", "cores", "load average", "Python", "onnxruntime"} <= set(told.place.conditions())
    assert told.place.load is not None
    assert 0 <= told.place.load.foreign <= 1


def files_of(host):
    return {path: path.stat().st_mtime_ns for path in (host.cache / "files").iterdir()}


def test_only_files_by_their_hash_stay(reached, told):
    assert reached.left() == set()
    assert files_of(reached)
    assert all(sha256_of(path) == path.name for path in files_of(reached))


def test_a_broken_connection_is_mended_and_nothing_repeated(reached, small, told, capsys):
    seen, before = {"killed": 0}, files_of(reached)

    def cut():
        first = reached.appeared("launch-0")
        seen["made"] = first.stat().st_mtime_ns
        for _ in range(10):
            seen["killed"] += reached.cut()
            time.sleep(0.1)
        seen["again"] = first.stat().st_mtime_ns

    thread = threading.Thread(target=cut)
    thread.start()
    again = made(reached, small, 3, 2)
    thread.join()
    assert seen["killed"] > 0
    assert seen["made"] == seen["again"]
    assert len(again.launches) == 3
    assert "connection was lost" in capsys.readouterr().err
    assert reached.left() == set()
    assert files_of(reached) == before  # no file was copied twice


def test_a_stopped_client_picks_up_what_is_finished(reached, small, monkeypatch):
    sleep = time.sleep

    def stop(seconds):
        sleep(seconds)
        if list((reached.cache / "jobs").glob("*/launch-0")):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(remote.time, "sleep", stop)
        with pytest.raises(KeyboardInterrupt):
            made(reached, small, 2, 3)
    assert reached.lock.is_dir()
    reached.appeared("launch-1")  # it goes on without us
    begun = time.time()
    told = made(reached, small, 2, 3)
    assert max(start for one in told.launches for of_one in one.starts for start in of_one) < begun
    assert reached.left() == set()


@pytest.mark.slow
def test_a_broken_copy_is_found_and_sent_again(reached, small, told):
    broken = reached.cache / "files" / next(iter(small.artifacts[0].manifest.files.values()))
    broken.write_bytes(b"x" + broken.read_bytes()[1:])
    with pytest.raises(InputRefused, match="broken"):
        made(reached, small, 2, 4)
    assert not broken.exists()
    assert reached.left() == set()
    assert len(made(reached, small, 2, 4).launches) == 2


def test_a_device_without_the_runtime_says_what_it_lacks(reached, small, monkeypatch):
    monkeypatch.setenv("RESCOMPRESS_DEVICE_PYTHON", "/nowhere/python; touch /tmp/injected")
    with pytest.raises(BackendMissing, match="onnxruntime"):
        made(reached, small, 2, 5)
    assert reached.left() == set()


def test_what_is_still_running_ends_with_the_benchmark(reached, small):
    """A quiet machine needs fewer launches than it may make."""
    with remote.opened(reached.address, small, QUICK, 9, 6) as there:
        there.launch()
        (key,) = (path.name for path in (reached.cache / "jobs").iterdir())
        assert any(key in line for line in command_lines())
    assert not any(key in line for line in command_lines())
    assert reached.left() == set()


def command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("address", "status", "fact"),
    [("ssh://127.0.0.1;id", 2, "is no device"), ("ssh://127.0.0.1:{port}", 7, "ssh can't reach the device")],
)
def test_the_command_line_says_what_is_wrong_and_shows_no_traceback(reached, networks, capsys, address, status, fact):
    words = ["benchmark", str(networks[0]), "--device", address.format(port=free_port())]
    assert guarded(lambda: cli(words, standalone_mode=False), words) == status
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 2  # the fact and the remedy
    assert said[0].startswith("error: ")
    assert fact in said[0]


@pytest.mark.slow
def test_the_command_line_times_on_a_device(reached, networks, capsys):
    words = ["benchmark", *map(str, networks), "--device", reached.address, "--launches", "2", "--format", "json"]
    assert guarded(lambda: cli(words, standalone_mode=False), words) == 0
    row = json.loads(capsys.readouterr().out)
    assert "ssh: " in json.dumps(row)
    assert "127.0.0.1" not in json.dumps(row)
    assert reached.left() == set()


@pytest.mark.slow
def test_a_killed_client_picks_up_what_is_finished(reached, networks, tmp_path):
    """The real command, killed without a chance to tidy up."""
    words = [sys.executable, "-m", "rescompress", "benchmark", str(networks[0]), "--device", reached.address]
    words += ["--launches", "3", "--blocks", "10", "--format", "json"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = reached.appeared("launch-0")
    process.kill()
    process.wait()
    assert reached.lock.is_dir()
    made = first.stat().st_mtime_ns
    reached.appeared("launch-2")
    assert first.stat().st_mtime_ns == made
    again = subprocess.run(words, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "taken over" not in again.stderr
    assert reached.left() == set()
