"""The way to a device: the system's own ssh or adb, one shell script at a time."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from rescompress.errors import BackendMissing, InputRefused, RecipeError

SSH_CONFIG = "RESCOMPRESS_SSH_CONFIG"
"""Names another file than the user's own for ``ssh -F``."""
LIMIT_BYTES = 64 << 20
"""More than any answer is long."""
_MARK = "rescompress-status"
_SSH = re.compile(
    r"ssh://(?:([A-Za-z0-9_][\w.-]*)@)?([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\])(?::([0-9]{1,5}))?/?", re.ASCII
)
_ADB = re.compile(r"adb://([A-Za-z0-9][A-Za-z0-9._:-]*)/?")
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
    "ControlMaster": "auto",
    "ControlPersist": "60",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "ERROR",
}
"""Nobody is asked for a password; one connection serves all scripts. Everything else is as the system has it."""


class Lost(Exception):
    """A script's end wasn't heard: the connection was never made, or broke; the text is what ssh or adb said."""


@dataclass(frozen=True)
class Said:
    """What a script wrote to standard output, and the status it ended with."""

    status: int
    text: bytes


class Link(Protocol):
    """A way to run scripts on one device.

    Attributes:
        kind: ``ssh`` or ``adb``.
        cache: shell expression of the folder where files may stay.
        lock: shell expression of the device's lock.
    """

    kind: str
    cache: str
    lock: str

    def shell(self, script: str, timeout_s: float = 60) -> Said:
        """Run a POSIX script on the device.

        Raises:
            Lost: nobody knows whether it ran.
        """
        ...

    def send(self, source: Path, target: str) -> Said:
        """Copy a file to the device; what arrives may be incomplete.

        Raises:
            Lost: nobody knows whether it arrived.
        """
        ...

    def close(self) -> None:
        """Give the connection up."""
        ...


def check(address: str) -> str:
    """The address, if it is of a known form.

    Raises:
        RecipeError: it isn't.
    """
    ssh, adb = _SSH.fullmatch(address), _ADB.fullmatch(address)
    if not (ssh or adb) or (ssh and ssh[3] and not 0 < int(ssh[3]) < 65536):
        raise RecipeError(f"{address!r} is no device.", "Write ssh://user@host, ssh://host:port or adb://serial.")
    return address


def dialled(address: str) -> Link:
    """The way to a device, not yet tried.

    Args:
        address: ``ssh://[user@]host[:port]`` or ``adb://serial``.

    Raises:
        RecipeError: the address is of neither form.
        BackendMissing: there is no ssh or no adb here.
    """
    ssh, adb = _SSH.fullmatch(check(address)), _ADB.fullmatch(address)
    program = "ssh" if ssh else "adb"
    if shutil.which(program) is None:
        raise BackendMissing(f"{program} is not on the PATH.", f"Install it, and try {program} by hand first.")
    if ssh:
        return Ssh(ssh[1], ssh[2].strip("[]"), ssh[3])
    assert adb
    return Adb(adb[1])


class Ssh:
    """OpenSSH with the user's own configuration, and one connection for all scripts."""

    kind = "ssh"
    cache = '"${XDG_CACHE_HOME:-$HOME/.cache}/rescompress"'
    lock = '"${TMPDIR:-/tmp}/rescompress.lock"'

    def __init__(self, user: str | None, host: str, port: str | None) -> None:
        self._folder = tempfile.mkdtemp(prefix="rc-")  # a socket's path may have 104 characters
        given = os.environ.get(SSH_CONFIG)
        options = {**_OPTIONS, "ControlPath": f"{self._folder}/%C"}
        self._command = [
            *("ssh", "-T", *(["-F", given] if given else [])),
            *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
            *(["-l", user] if user else []),
            *(["-p", port] if port else []),
        ]
        self._host = host

    def shell(self, script: str, timeout_s: float = 60) -> Said:
        """Run a POSIX script on the device."""
        return _said(self._line(script), None, timeout_s)

    def send(self, source: Path, target: str) -> Said:
        """Copy a file to the device."""
        return _said(self._line(f"cat > {shlex.quote(target)}"), source, _seconds(source))

    def close(self) -> None:
        """End the connection that all scripts shared."""
        subprocess.run([*self._command, "-O", "exit", self._host], capture_output=True, check=False, timeout=30)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _line(self, script: str) -> list[str]:
        # the user's login shell may be any; it only has to start ours
        return [*self._command, self._host, "exec sh -c " + shlex.quote(_marked(script))]


class Adb:
    """The Android Debug Bridge: ``adb push`` and ``adb shell``. Contract-tested, not executed on a phone."""

    kind = "adb"
    cache = "/data/local/tmp/rescompress"
    lock = "/data/local/tmp/rescompress.lock"

    def __init__(self, serial: str) -> None:
        self._command = ["adb", "-s", serial]

    def shell(self, script: str, timeout_s: float = 60) -> Said:
        """Run a POSIX script on the device."""
        return _said([*self._command, "shell", _marked(script)], None, timeout_s)

    def send(self, source: Path, target: str) -> Said:
        """Copy a file to the device."""
        text, complaint = _spoken([*self._command, "push", str(source), target], None, _seconds(source))
        if complaint is not None:
            raise Lost(complaint)
        return Said(0, text)

    def close(self) -> None:
        """Nothing is held open."""


def _marked(script: str) -> str:
    """The script and, behind all that it writes, its status: whoever reads that far has read everything."""
    return f"(\n{script}\n)\nprintf '\\n{_MARK} %s\\n' \"$?\""


def _said(command: list[str], source: Path | None, timeout_s: float) -> Said:
    text, complaint = _spoken(command, source, timeout_s)
    body, mark, status = text.replace(b"\r\n", b"\n").rpartition(f"\n{_MARK} ".encode())
    if not mark or not status.strip().isdigit():
        raise Lost(complaint or "it ended in the middle of an answer")
    return Said(int(status), body)


def _spoken(command: list[str], source: Path | None, timeout_s: float) -> tuple[bytes, str | None]:
    """Standard output of a program, and where it failed the last thing that it said."""
    late = threading.Event()
    # a file, because a shared connection that goes on in the background would keep a pipe open
    with tempfile.TemporaryFile() as said, (source or Path(os.devnull)).open("rb") as given:
        process = subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=said)
        assert process.stdout
        watchdog = threading.Timer(timeout_s, _end, [process, late])
        watchdog.daemon = True
        watchdog.start()
        try:
            text = process.stdout.read(LIMIT_BYTES + 1)
            if len(text) > LIMIT_BYTES:
                process.kill()
            failed = process.wait()
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
        if len(text) > LIMIT_BYTES:
            raise InputRefused("The device's answer has no end.", "Look at what answers there.")
        complaint = f"no answer for {timeout_s:.0f} s" if late.is_set() else _last(said, failed)
        return text, complaint if failed else None


def _end(process: "subprocess.Popen[bytes]", late: threading.Event) -> None:
    late.set()
    process.kill()


def _last(said: IO[bytes], status: int) -> str:
    said.seek(0)
    lines = [line.strip() for line in said.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return (lines or [f"it ended with status {status}"])[-1].rstrip(".")


def _seconds(source: Path) -> float:
    """Time enough for a file at 100 kB a second."""
    return 60 + source.stat().st_size / 1e5
