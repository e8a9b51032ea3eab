"""A bound on time and memory for code of others that may not end: an alarm that rings every second."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

MOST_S, MOST_BYTES = 120.0, 8 * 2**30
"""Two minutes and 8 GiB on top; the largest ResNets take seconds and a few hundred MiB."""
RING_S = 1.0


class GaveUpError(Exception):
    """The bound was crossed."""


@contextlib.contextmanager
def bounded(most_s: float = MOST_S, most_bytes: int = MOST_BYTES) -> Iterator[None]:
    """Raise ``GaveUpError`` in the block once it takes longer or more memory than this.

    Where there are no alarms (outside the main thread, on Windows) the block runs unbounded.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    start, held = time.monotonic(), _peak_bytes()

    def ring(number: int, frame: FrameType | None) -> None:
        if time.monotonic() - start > most_s or _peak_bytes() - held > most_bytes:
            raise GaveUpError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, min(RING_S, most_s), min(RING_S, most_s))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _peak_bytes() -> int:
    """The most memory that this process has held."""
    import resource  # not on Windows, which never gets here

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
