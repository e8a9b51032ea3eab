"""What a person sees while the work goes on: progress bars on a terminal, notes on standard error."""

import contextlib
import sys
from collections.abc import Generator, Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

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
        _gathering[:] = [others for others in _gathering if others is not notes]  # equal ones may be of somebody else


def track(
    items: Iterable[T], doing: str, total: int | None = None, begun: int = 0, *, per_step: int = 0
) -> Generator[T, None, None]:
    """Yield the items behind a progress bar with the time left; no bar off a terminal.

    Args:
        items: what is done.
        doing: what the bar says.
        total: how many steps there are, if the items don't tell.
        begun: steps that were done before.
        per_step: images in each step, where their speed should be shown.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *([_Speed(per_step)] if per_step else []),
    )
    console = Console(stderr=True)
    shown = console.is_terminal and not quiet
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        yield from bar.track(items, total=total, completed=begun, description=doing)


class _Speed(ProgressColumn):
    """Images per second."""

    def __init__(self, per_step: int) -> None:
        super().__init__()
        self._per_step = per_step

    def render(self, task: Task) -> Text:
        """What the column shows."""
        return Text(f"{task.speed * self._per_step:.0f} images/s" if task.speed else "")
