"""What a person sees while the work goes on: progress bars on a terminal, notes on standard error."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
quiet = False


_gathering: list[list[str]] = []


def note(text: str) -> None:
    """Say one line on standard error, unless the caller asked for quiet."""
    for notes in _gathering:
        notes.append(text)
    if not quiet:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def gathered() -> Iterator[list[str]]:
    """Collect what is noted meanwhile, for a row that should tell it too."""
    notes: list[str] = []
    _gathering.append(notes)
    try:
        yield notes
    finally:
        _gathering.remove(notes)


def track(items: Iterable[T], doing: str, total: int | None = None) -> Iterator[T]:
    """Yield the items behind a progress bar with the time left; no bar off a terminal."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    shown = console.is_terminal and not quiet
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        yield from bar.track(items, total=total, description=doing)
