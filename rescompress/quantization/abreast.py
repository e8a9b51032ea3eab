"""Batches side by side: on a CPU two networks with one core each get further than one with both."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
LANES = 4
"""Batches that are held at once, at most: each needs the memory of a run."""


def abreast(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Do the same to each item, several at a time, and give the results back in the items' order.

    The cores that PyTorch may use are shared out; with one, everything happens where it is called.

    Args:
        work: what is done to an item; it changes nothing that another one reads.
        items: are taken as they are needed, from the calling thread.
    """
    cores = torch.get_num_threads()
    lanes = min(cores, LANES)
    if lanes == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(lanes, "lane", torch.set_num_threads, (cores // lanes,)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > lanes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(cores)  # what a lane sets is also what PyTorch hands to threads that come later
