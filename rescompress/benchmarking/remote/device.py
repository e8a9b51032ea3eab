"""A device that answers: what it is, the folder where files may stay, and scripts that survive a lost connection."""

import re
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rescompress import progress
from rescompress.benchmarking.remote.links import Link, Lost, Said
from rescompress.cpu import UNAVAILABLE, instruction_sets
from rescompress.errors import BackendMissing, InputRefused, ResourceExhausted
from rescompress.spec import Environment

PATIENCE_S = 300
"""How long a lost connection is tried again."""
_PAUSES_S = (0.5, 1, 2, 5, 10)
_FACTS = {
    "processor": "grep -m1 -E '^(model name|Model)[[:space:]]*:' /proc/cpuinfo | cut -d: -f2-",
    "board": "tr -d '\\0' < /proc/device-tree/model",
    "chip": "getprop ro.soc.model",
    "brand": "sysctl -n machdep.cpu.brand_string",
    "machine": "uname -m",
    "system": "uname -sr",
    "memory": "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo",
    "instruction sets": "grep -m1 -E '^(flags|Features)[[:space:]]*:' /proc/cpuinfo",
    "cores": "getconf _NPROCESSORS_ONLN || nproc",
    "load average": "cut -d' ' -f1-3 /proc/loadavg",
    "governor": "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor | sort -u | tr '\\n' ' '",
    "temperature": "cat /sys/class/thermal/thermal_zone*/temp | sort -n | tail -1",
    "power mode": "nvpmodel -q | sed -n 's/^NV Power Mode: //p'",
}
"""Scripts that tell a line; one that fails tells nothing. None of them names a host or a user."""
_PROCESSORS = ("processor", "chip", "board", "brand", "machine")
PATH = re.compile(r"/[ -~]+")
"""Paths that a device may name."""


class Device:
    """A device at the other end of a link that was found to work.

    Args:
        link: not yet tried.

    Attributes:
        cache: folder that may stay behind: files by their SHA-256.
        lock: folder whose existence means that somebody times there.

    Raises:
        InputRefused: its host key isn't the known one, or it answers nonsense.
        BackendMissing: it can't be reached.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        try:
            said = link.shell(f"printf '%s\\n' {link.cache} {link.lock}")
        except Lost as lost:
            raise _unreachable(link.kind, str(lost)) from None
        places = said.text.decode("utf-8", "replace").strip().splitlines()
        if len(places) != 2 or not all(PATH.fullmatch(place) for place in places):
            raise InputRefused("The device doesn't say where files may go.", "Look at what its shell prints by itself.")
        self.cache, self.lock = places

    def ask(self, script: str) -> Said:
        """Run a script that may run twice: it is repeated until its end was heard.

        Raises:
            ResourceExhausted: the connection didn't come back.
        """
        return self._patiently(lambda: self.link.shell(script))

    def told(self, script: str, doing: str) -> str:
        """What a script prints that has to succeed.

        Raises:
            InputRefused: it failed; ``doing`` is named.
        """
        said = self.ask(script)
        text = said.text.decode("utf-8", "replace").strip()
        if said.status:
            raise InputRefused(f"The device can't {doing}.", f"Look at the free space and the rights of {self.cache}.")
        return text

    def place(self, source: Path, target: str) -> None:
        """Copy a file; it appears complete, or not at all.

        Raises:
            ResourceExhausted: it did not arrive whole: the connection didn't come back, or the disk is full.
        """
        part, whole, size = shlex.quote(f"{target}.part"), shlex.quote(target), source.stat().st_size

        def copy() -> Said:
            self.link.send(source, f"{target}.part")
            return self.link.shell(f'[ "$(wc -c < {part})" -eq {size} ] && mv {part} {whole}')

        if self._patiently(copy).status:
            raise ResourceExhausted(f"{source.name} did not arrive whole on the device.", "Free some space there.")

    def facts(self) -> dict[str, str]:
        """What it is and how it is set up, by name; what it doesn't tell is ``unavailable``."""
        lines = [
            f"printf '%s=%s\\n' {shlex.quote(name)} \"$({script})\" 2>/dev/null" for name, script in _FACTS.items()
        ]
        said = self.ask("{\n" + "\n".join(lines) + "\n} 2>/dev/null").text.decode("utf-8", "replace")
        found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        known = {name: plain(found.get(name, "")) or UNAVAILABLE for name in _FACTS}
        processor = next((known[name] for name in _PROCESSORS if known[name] != UNAVAILABLE), UNAVAILABLE)
        heat, memory = known["temperature"], known["memory"]
        return {
            "processor": processor,
            **{name: known[name] for name in ("machine", "system", "cores", "load average", "governor")},
            "memory": f"{memory} kB" if memory.isascii() and memory.isdigit() else UNAVAILABLE,
            "instruction sets": ", ".join(instruction_sets(found.get("instruction sets", ""))) or UNAVAILABLE,
            "temperature": f"{int(heat) / 1000:.0f} °C" if heat.isascii() and heat.isdigit() else UNAVAILABLE,
            "power mode": known["power mode"],
        }

    def _patiently(self, attempt: Callable[[], Said]) -> Said:
        end, pauses = time.monotonic() + PATIENCE_S, iter(_PAUSES_S)
        noted = False
        while True:
            try:
                return attempt()
            except Lost as lost:
                if time.monotonic() > end:
                    raise ResourceExhausted(
                        f"The connection was lost and didn't come back for {PATIENCE_S} s: {lost}.",
                        "Run the same command again: what was measured is kept on the device.",
                    ) from None
                if not noted:
                    progress.note(f"The connection was lost ({lost}); trying again.")
                    noted = True
                time.sleep(next(pauses, _PAUSES_S[-1]))


def environment(conditions: Mapping[str, str]) -> Environment:
    """What a device's conditions say of it, in the form in which a machine tells of itself; 0 is unknown."""
    known = {name: "" if value == UNAVAILABLE else value for name, value in conditions.items()}
    facts = {*_FACTS, "processor", "Python"}
    return Environment(
        machine=known.get("machine") or UNAVAILABLE,
        cpu=known.get("processor") or UNAVAILABLE,
        cores=_leading(known.get("cores", "")),
        memory_bytes=1024 * _leading(known.get("memory", "")),
        system=known.get("system") or UNAVAILABLE,
        python=known.get("Python") or UNAVAILABLE,
        isa=tuple(filter(None, known.get("instruction sets", "").split(", "))),
        packages={name: value for name, value in conditions.items() if name not in facts},
    )


def _leading(text: str) -> int:
    found = re.match(r"[0-9]{1,15}", text)
    return int(found[0]) if found else 0


def plain(text: str) -> str:
    """What a device said, fit for a report: one line of printable ASCII, not long."""
    return " ".join(re.sub(r"[^ -~]", " ", text).split())[:80]


def _unreachable(kind: str, said: str) -> InputRefused | BackendMissing:
    """Why a first connection failed, as far as ssh or adb tells."""
    low = said.lower()
    if "host key" in low or "host identification" in low:
        return InputRefused(
            "The device's host key isn't the one that ssh knows.",
            "Compare it with the device's own, and put it into known_hosts, by connecting once by hand.",
        )
    if "permission denied" in low:
        return BackendMissing(
            "The device doesn't let ssh in without a password.", "Install a key there, as with ssh-copy-id."
        )
    return BackendMissing(f"{kind} can't reach the device: {plain(said)}.", f"Try it with {kind} by hand first.")
