"""One benchmark at a time on a device: the second comer is told who is first, and no lock is broken silently."""

import json

import pytest

from rescompress.benchmarking.remote.device import Device
from rescompress.benchmarking.remote.links import dialled
from rescompress.benchmarking.remote.lock import locked
from rescompress.errors import InputRefused, ResourceExhausted, RunLocked

pytestmark = pytest.mark.xdist_group("sshd")
KEY, OTHER = "0" * 32, "1" * 32


@pytest.fixture
def device(reached):
    link = dialled(reached.address)
    yield Device(link)
    link.close()
    for path in (reached.lock / "holder", reached.lock):
        if path.is_file():
            path.unlink()
        elif path.is_dir():
            path.rmdir()


def test_a_second_process_of_the_same_user_is_refused(reached, device):
    with locked(device, reached.address, KEY):
        with pytest.raises(RunLocked, match="Another process of yours") as caught, locked(device, reached.address, KEY):
            pass
        assert caught.value.exit_code == 9
        assert reached.lock.is_dir()
    assert not reached.lock.exists()


def test_another_client_is_refused_and_told_who_and_since_when(reached, device, tmp_path, monkeypatch):
    with locked(device, reached.address, KEY):
        monkeypatch.setenv("RESCOMPRESS_CACHE", str(tmp_path / "another client"))
        with (
            pytest.raises(RunLocked, match=r"since 2\d{3}-\d\d-\d\d \d\d:\d\d UTC by .* on ") as caught,
            locked(device, reached.address, KEY),
        ):
            pass
        assert caught.value.exit_code == 9
        assert str(reached.lock) in caught.value.remedy  # nothing runs there: it may be left over
        assert reached.lock.is_dir()


def test_a_lock_that_nobody_signed_is_not_broken(reached, device):
    reached.lock.mkdir()
    with pytest.raises(RunLocked, match="somebody who didn't sign"), locked(device, reached.address, KEY):
        pass
    assert reached.lock.is_dir()


@pytest.mark.parametrize(
    "holder", ['{"who": "a\\n\\u001b[31m", "since": 7}', "[1]", '{"key": "../../x; touch y"}', "{"]
)
def test_what_a_holder_wrote_is_shown_plainly_and_never_run(reached, device, holder):
    reached.lock.mkdir()
    (reached.lock / "holder").write_text(holder)
    with pytest.raises(RunLocked) as caught, locked(device, reached.address, KEY):
        pass
    assert caught.value.fact.isprintable()
    assert reached.left() == {"tmp/rescompress.lock", "tmp/rescompress.lock/holder"}


def test_ones_own_dead_process_leaves_a_lock_that_is_taken_over_aloud(reached, device, capsys):
    with pytest.raises(ResourceExhausted), locked(device, reached.address, KEY):
        raise ResourceExhausted("The connection was lost.", "Run again.")
    assert json.loads((reached.lock / "holder").read_text())["key"] == KEY
    with locked(device, reached.address, KEY):
        assert "taken over" not in capsys.readouterr().err  # the same command goes on
        (reached.lock / "holder").write_text((reached.lock / "holder").read_text().replace(KEY, OTHER))
    with pytest.raises(ResourceExhausted), locked(device, reached.address, OTHER):
        raise ResourceExhausted("The connection was lost.", "Run again.")
    with locked(device, reached.address, KEY):
        assert "taken over" in capsys.readouterr().err
    assert not reached.lock.exists()


def test_a_failure_of_the_benchmark_gives_the_lock_back(reached, device):
    with pytest.raises(InputRefused), locked(device, reached.address, KEY):
        raise InputRefused("The file is broken.", "Export it again.")
    assert not reached.lock.exists()
