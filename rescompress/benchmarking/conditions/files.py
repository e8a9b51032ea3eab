"""What a Linux system tells in small files: one value or one table each, or nothing at all."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rescompress.cpu import UNAVAILABLE

CPUS = "sys/devices/system/cpu"


@dataclass(frozen=True)
class Files:
    """The files below a root; tests lay a tree of their own.

    A file that is missing, forbidden or refused by its driver is None, never 0.
    """

    root: Path = Path("/")

    def text(self, path: str | Path) -> str | None:
        """What a file says, without the line's end."""
        try:
            return (self.root / path).read_text("utf-8", "replace").strip("\0\n ")
        except OSError:
            return None

    def number(self, path: str | Path) -> int | None:
        """A whole number that stands alone in its file."""
        try:
            return int(self.text(path) or "")
        except ValueError:
            return None

    def table(self, path: str | Path) -> dict[str, int]:
        """Numbers by name, a pair in each line, as in ``/proc/vmstat`` and ``cpu.stat``; empty where there are none."""
        pairs = [line.split() for line in (self.text(path) or "").splitlines()]
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) >= 2 and pair[1].isdecimal()}

    def found(self, pattern: str) -> list[Path]:
        """Files and folders that a pattern names, sorted."""
        try:
            return sorted(self.root.glob(pattern))
        except OSError:
            return []

    def texts(self, pattern: str) -> list[str]:
        """What the files of a pattern say, those that say something."""
        return [said for path in self.found(pattern) if (said := self.text(path))]

    def numbers(self, pattern: str) -> list[int]:
        """The numbers in the files of a pattern, of those that hold one."""
        return [number for path in self.found(pattern) if (number := self.number(path)) is not None]


def listed(words: Iterable[str]) -> str:
    """Different words, sorted, in a line; ``unavailable`` where there is none."""
    return ", ".join(sorted(set(words))) or UNAVAILABLE
