"""Who answers LoadGen's queries: a session, in batches, always in the thread that owns it."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import cast

import numpy as np

from rescompress.backends import Images, Session

Issue = Callable[[list[int], list[int]], None]
"""What LoadGen calls with the numbers of its questions and of the images that they are about."""
_REHEARSAL_S = 0.02
_REHEARSED = 3


class Desk:
    """Answers queries with a session.

    Args:
        session: what answers.
        ring: the images that LoadGen has numbered.
        batch: how many the session gets at once at most.
    """

    def __init__(self, session: Session, ring: Images, batch: int) -> None:
        self._session, self._ring, self.batch = session, ring, batch
        self._held = ring
        self.failure: Exception | None = None

    def load(self, indices: Sequence[int]) -> None:
        """Lay the images in the order in which LoadGen has shuffled them: what it asks for in a row lies in a row."""
        self._order = np.resize(indices, len(indices) + self.batch - 1).tolist()
        self._held = self._ring[self._order]
        self._places = {index: place for place, index in reversed(list(enumerate(indices)))}

    def answer(self, ids: Sequence[int], indices: Sequence[int]) -> None:
        """Answer questions, a batch at a time. After a failure the rest is waved through: LoadGen must come home.

        Args:
            ids: LoadGen's numbers of the questions.
            indices: which image each is about.
        """
        import mlperf_loadgen

        response = mlperf_loadgen.QuerySampleResponse
        for start in range(0, len(ids), self.batch):
            end = start + self.batch
            if self.failure is None:
                try:
                    self._session.run(self._images(indices[start:end]))
                except Exception as error:
                    self.failure = error
            mlperf_loadgen.QuerySamplesComplete([response(one, 0, 0) for one in ids[start:end]])

    def _images(self, indices: Sequence[int]) -> Images:
        """The images; without a copy where they lie in a row, as all do but those that met in a queue."""
        place = self._places[indices[0]]
        if self._order[place : place + len(indices)] == list(indices):
            return self._held[place : place + len(indices)]
        return self._ring[list(indices)]


def queued(start: Callable[[Issue], None], desk: Desk) -> None:
    """Let LoadGen ask in a thread of its own, and answer what waits in this one: first come, first served.

    Args:
        start: runs LoadGen to its end.
        desk: answers.
    """
    waiting: SimpleQueue[tuple[int, int] | None] = SimpleQueue()

    def issue(ids: list[int], indices: list[int]) -> None:
        for pair in zip(ids, indices, strict=True):
            waiting.put(pair)

    def run() -> None:
        try:
            start(issue)
        finally:
            waiting.put(None)

    asker = threading.Thread(target=run, name="loadgen")
    asker.start()
    while (first := waiting.get()) is not None:
        taken = [first]
        # only questions can be waiting: the None comes after the last of them was answered
        while len(taken) < desk.batch and not waiting.empty():
            taken.append(cast(tuple[int, int], waiting.get()))
        desk.answer([one for one, _ in taken], [index for _, index in taken])
    asker.join()


def rehearsed(session: Session, ring: Images, sizes: Iterable[int]) -> float:
    """Run each size of batch that will occur, so that none is new to the runtime.

    Returns:
        Seconds that the last of them takes at its quickest.
    """
    quickest = math.inf
    for size in sizes:
        quickest, runs, end = math.inf, 0, time.perf_counter() + _REHEARSAL_S
        while runs < _REHEARSED or time.perf_counter() < end:
            begin = time.perf_counter()
            session.run(ring[:size])
            quickest, runs = min(quickest, time.perf_counter() - begin), runs + 1
    return quickest
