"""One lock per device: a folder, because making one is atomic everywhere; what lies in it says who holds it."""

import contextlib
import getpass
import json
import re
import shlex
import socket
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rescompress import artifact, progress
from rescompress.artifact import digest
from rescompress.benchmarking import cache
from rescompress.benchmarking.remote.device import Device, plain
from rescompress.errors import RescompressError, ResourceExhausted, RunLocked

_KEY = re.compile(r"[0-9a-f]{32}")


def alive(folder: str) -> str:
    """A script's condition: what was started in a job's folder still runs, and its number wasn't given to another."""
    pid, key = shlex.quote(f"{folder}/pid"), shlex.quote(folder.rsplit("/", 1)[-1])
    return (
        f'{{ p=$(cat {pid} 2>/dev/null) && [ -n "$p" ] && kill -0 "$p" 2>/dev/null'
        f' && {{ [ ! -r "/proc/$p/cmdline" ] || grep -q {key} "/proc/$p/cmdline"; }}; }}'
    )


@contextlib.contextmanager
def locked(device: Device, address: str, key: str) -> Iterator[None]:
    """Keep others off the device. After a failure of the connection the lock stays, as does what runs there.

    A lock that this user's own killed process left is taken over; one of anybody else's is never broken.

    Args:
        device: to be locked.
        address: as the user wrote it.
        key: of the job.

    Raises:
        RunLocked: somebody times there.
    """
    folder = cache.folder().parent / "devices"
    name = digest(address)[:16]
    with artifact.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        here = FileLock(folder / f"{name}.lock")
        try:
            here.acquire(timeout=0)
        except Timeout:
            raise RunLocked("Another process of yours times on this device.", "Wait for it.") from None
    try:
        # whoever has this file and the lock on it is the only process that can have signed as this client
        _take(device, _client(folder), key)
        try:
            yield
        except RescompressError as error:
            if not isinstance(error, ResourceExhausted):
                _give_back(device)
            raise
        _give_back(device)
    finally:
        here.release()


def _take(device: Device, client: str, key: str) -> None:
    quoted = shlex.quote(device.lock)
    mine = {"client": client, "key": key, "who": _who(), "since": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"}
    sign = f"printf '%s' {shlex.quote(json.dumps(mine))} > {quoted}/holder"
    script = (
        f"if mkdir {quoted} 2>/dev/null; then {sign} && echo taken; else cat {quoted}/holder || [ -d {quoted} ]; fi"
    )
    said = device.told(f"{{ {script}; }} 2>/dev/null", "be locked")
    if said == "taken":
        return
    holder = _parsed(said)
    theirs, told = plain(str(holder.get("key", ""))), "since {since} by {who}".format_map(_Said(holder))
    running = bool(_KEY.fullmatch(theirs)) and not device.ask(alive(f"{device.cache}/jobs/{theirs}")).status
    if holder.get("client") != client:
        rest = "" if running else f"; nothing of it runs there any more: if it is left over, remove {device.lock} there"
        raise RunLocked(f"The device is locked {told}.", f"Wait until it is free{rest}.")
    if theirs != key and running:
        raise RunLocked(
            f"The device still works on another benchmark, {told}.", "Run that one again to get its numbers, or wait."
        )
    if theirs != key:
        progress.note(f"The device was still locked {told}, by a process that has ended; its lock is taken over.")
    device.told(sign, "be locked")


def _give_back(device: Device) -> None:
    quoted = shlex.quote(device.lock)
    device.ask(f"rm -f {quoted}/holder && rmdir {quoted}")


class _Said(dict[str, Any]):
    """What a holder said of itself, made plain; what it left out is unknown."""

    def __init__(self, holder: dict[str, Any]) -> None:
        super().__init__({name: plain(str(value)) for name, value in holder.items()})

    def __missing__(self, name: str) -> str:
        return "an unknown time" if name == "since" else "somebody who didn't sign"


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _client(folder: Path) -> str:
    """A number for this user on this machine, made once; it names nobody."""
    path = folder / "client"
    with contextlib.suppress(OSError):
        text: str = path.read_text("ascii", "replace").strip()
        if _KEY.fullmatch(text):
            return text
    text = digest([_who(), str(datetime.now(timezone.utc))])[:32]
    artifact.write_bytes(path, text.encode())
    return text


def _who() -> str:
    return plain(f"{getpass.getuser()} on {socket.gethostname()}")
