"""What a training tells while it goes on: a line of JSON every few steps, and to trackers that people watch."""

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rescompress import catalog, processes

PACKAGE = "rescompress.training.trackers"
FILE = "journal.jsonl"
EVERY_S = 2.0


class Tracker(Protocol):
    """What each file of ``trackers`` opens."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take in numbers of one step."""
        ...

    def close(self) -> None:
        """Write what is still held."""
        ...


class Journal:
    """A training's journal; only the main process writes one.

    Args:
        folder: of this training; None keeps no file, and trackers have no place of their own.
        purpose: names the stage.
        trackers: files of the folder ``trackers``.
        step: the first step that is to come; lines of later ones, from before a crash, go.
    """

    def __init__(self, folder: Path | None, purpose: str, trackers: Sequence[str], step: int) -> None:
        self._stack = contextlib.ExitStack()
        self._images, self._last, self._losses = 0, time.monotonic(), [0.0, 0.0]
        self._file, self._trackers = None, list[Tracker]()
        if not processes.is_main():
            return
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            kept = _lines_before(folder / FILE, step)
            self._file = self._stack.enter_context((folder / FILE).open("w", encoding="utf-8"))
            self._file.writelines(kept)
        place = folder or Path.cwd() / "runs"
        for name in trackers:
            tracker: Tracker = catalog.load(PACKAGE, name).open_tracker(place, purpose)
            self._trackers.append(tracker)
            self._stack.callback(tracker.close)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def step(self, step: int, epoch: float, loss: float, rate: float, images: int) -> None:
        """Take in one step; a line is written every two seconds."""
        self._images += images
        self._losses = [self._losses[0] + loss * images, self._losses[1] + images]
        seconds = time.monotonic() - self._last
        if seconds >= EVERY_S:
            speed = self._images / seconds
            mean = self._losses[0] / self._losses[1]
            self.log(step, {"epoch": epoch, "loss": mean, "lr": rate, "images_per_s": speed})
            self._images, self._last, self._losses = 0, time.monotonic(), [0.0, 0.0]

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write a line now."""
        line: dict[str, Any] = {"step": step, **{name: round(value, 6) for name, value in values.items()}}
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        for tracker in self._trackers:
            tracker.log(step, values)


def _lines_before(file: Path, step: int) -> list[str]:
    """The journal's whole lines of steps before this one."""
    kept = []
    for line in file.read_text("utf-8").splitlines(keepends=True) if file.is_file() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] < step and line.endswith("\n"):
                kept.append(line)
    return kept
