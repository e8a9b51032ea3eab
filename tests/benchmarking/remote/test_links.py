"""Addresses that are none, devices that don't answer, and scripts whose end isn't heard."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from rescompress.benchmarking import benchmark
from rescompress.benchmarking.remote.device import Device, environment
from rescompress.benchmarking.remote.links import Lost, dialled
from rescompress.errors import BackendMissing, InputRefused, RecipeError
from tests.benchmarking.remote.conftest import free_port

ODD = [
    "", "host", "ssh://", "adb://", "http://host", "ssh://-oProxyCommand=id", "ssh://a b", "ssh://host;id", "ssh://$(id)",
    "ssh://host/path", "ssh://user:word@host", "ssh://host:0", "ssh://host:65536", "ssh://host\n", "ssh://-l@host",
    "adb://-d", "adb://a b", "adb://a;id", "ssh://h\u00f6st", "ssh://host:\u0663", "adb://x/y", "ssh://[::1",
]  # fmt: skip


@pytest.mark.parametrize("address", ODD)
def test_an_odd_address_is_refused(address):
    with pytest.raises(RecipeError, match="is no device") as caught:
        dialled(address)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "address", ["ssh://jetson", "ssh://u@10.0.0.2:2222/", "ssh://me@[fe80::1]", "adb://emulator-5554"]
)
def test_an_address_of_the_documented_form_is_taken(address, tmp_path, monkeypatch):
    for program in ("ssh", "adb"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    dialled(address).close()


def test_without_adb_it_is_told_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendMissing, match="adb is not on the PATH"):
        dialled("adb://serial")


@pytest.mark.xdist_group("sshd")
class TestOverSsh:
    def test_a_script_tells_its_status_and_its_bytes(self, reached):
        link = dialled(reached.address)
        said = link.shell("printf 'a\\000b\\n\\n'; echo lost >&2; exit 3")
        assert (said.status, said.text) == (3, b"a\0b\n\n")
        link.close()

    def test_words_stay_words(self, reached, tmp_path):
        link, source = dialled(reached.address), tmp_path / "a 'file' $(touch injected)"
        source.write_bytes(bytes(range(256)) * 1000)
        device = Device(link)
        target = f'{reached.home}/tmp/it\'s $(touch injected) "here"'
        device.place(source, target)
        assert (reached.home / "tmp" / target.rpartition("/")[2]).read_bytes() == source.read_bytes()
        assert {path.name for path in (reached.home / "tmp").iterdir()} == {target.rpartition("/")[2]}
        (reached.home / "tmp" / target.rpartition("/")[2]).unlink()
        link.close()

    def test_a_script_that_is_cut_off_is_lost(self, reached):
        link = dialled(reached.address)
        with pytest.raises(Lost):
            link.shell("kill -9 $PPID; sleep 5")
        with pytest.raises(Lost, match="no answer"):
            link.shell("sleep 30", timeout_s=0.5)
        assert link.shell("echo back").text == b"back\n"  # a new connection is made
        link.close()

    def test_an_answer_without_end_is_refused(self, reached, monkeypatch):
        monkeypatch.setattr("rescompress.benchmarking.remote.links.LIMIT_BYTES", 1000)
        link = dialled(reached.address)
        with pytest.raises(InputRefused, match="no end"):
            link.shell("yes")
        link.close()

    def test_nobody_listening_is_a_missing_device(self, reached):
        with (
            pytest.raises(BackendMissing, match="refused") as caught,
            contextlib.closing(dialled(f"ssh://127.0.0.1:{free_port()}")) as link,
        ):
            Device(link)
        assert caught.value.exit_code == 7

    def test_another_host_key_is_refused(self, reached, tmp_path, monkeypatch):
        known, port = tmp_path / "known", reached.address.rpartition(":")[2]
        known.write_text(f"[127.0.0.1]:{port} " + (reached.config.parent / "key.pub").read_text())
        config = tmp_path / "config"
        config.write_text(f'UserKnownHostsFile "{known}"\n' + reached.config.read_text())  # the first one counts
        monkeypatch.setenv("RESCOMPRESS_SSH_CONFIG", str(config))
        with (
            pytest.raises(InputRefused, match="host key") as caught,
            contextlib.closing(dialled(reached.address)) as link,
        ):
            Device(link)
        assert caught.value.exit_code == 4

    def test_a_key_that_isnt_let_in_is_told(self, reached, tmp_path, monkeypatch):
        config = tmp_path / "config"
        config.write_text(
            f'IdentityFile "{reached.config.parent}/host"\n{reached.config.read_text()}'.replace("/key", "/no")
        )
        monkeypatch.setenv("RESCOMPRESS_SSH_CONFIG", str(config))
        with (
            pytest.raises(BackendMissing, match="without a password"),
            contextlib.closing(dialled(reached.address)) as link,
        ):
            Device(link)


def test_conditions_become_the_environment_of_the_device():
    said = {
        "processor": "Cortex-A78", "machine": "aarch64", "system": "Linux 5.10", "cores": "8", "memory": "16 kB",
        "instruction sets": "neon, neon_dotprod", "Python": "3.10.12", "onnxruntime": "1.30.1",
        "governor": "unavailable",
    }  # fmt: skip
    found = environment(said)
    assert (found.cpu, found.cores, found.memory_bytes, found.python) == ("Cortex-A78", 8, 16384, "3.10.12")
    assert found.isa == ("neon", "neon_dotprod")
    assert found.packages == {"onnxruntime": "1.30.1"}
    unknown = environment({name: "unavailable" for name in said if name != "onnxruntime"})
    assert (unknown.cpu, unknown.cores, unknown.memory_bytes, unknown.isa, unknown.packages) == (
        "unavailable", 0, 0, (), {},
    )  # fmt: skip


@pytest.mark.parametrize("knobs", [{"profile": True, "device": "ssh://board"}, {"device": "board"}])
def test_knobs_that_a_device_doesnt_take_are_refused_before_anything_else(knobs):
    with pytest.raises(RecipeError):
        benchmark([Path("nowhere")], np.zeros((1, 3, 8, 8), np.float32), **knobs)
