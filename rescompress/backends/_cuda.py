"""A GPU's own clock, and CUDA graphs, as PyTorch offers them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3
"""Calls before recording, on the stream that records: libraries set themselves up at their first calls."""
Function = Callable[[Tensor], Tensor]


class Stopwatch:
    """Events on a GPU's stream around each call of a function: its time on the GPU's clock, copies left out.

    The events are made once; recording one takes the host a microsecond, and nothing waits until ``ns`` is asked for.

    Args:
        function: of a tensor on the GPU.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._used = 0

    def __call__(self, images: Tensor) -> Tensor:
        if self._used == len(self._pairs):
            self._pairs.append((_event(), _event()))
        begin, end = self._pairs[self._used]
        self._used += 1
        begin.record()
        answer = self._function(images)
        end.record()
        return answer

    def reset(self) -> None:
        """Forget the calls until now."""
        self._used = 0

    @property
    def ns(self) -> int | None:
        """Nanoseconds of all calls since the last reset, together; None where there was none."""
        if not self._used:
            return None
        self._pairs[self._used - 1][1].synchronize()
        return int(1e6 * sum(begin.elapsed_time(end) for begin, end in self._pairs[: self._used]) + 0.5)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def recorded(function: Function) -> Function:
    """The same function, recorded at its first call with images of some shape and replayed from then on.

    Its answer is overwritten by the next call, so it must be copied away.

    Args:
        function: of a tensor on the GPU; it allocates nothing but through PyTorch.
    """
    kept: dict[tuple[int, ...], dict[str, Any]] = {}

    def call(images: Tensor) -> Tensor:
        shape = tuple(images.shape)
        if shape not in kept:
            kept[shape] = _record(function, images)
        graph = kept[shape]
        graph["images"].copy_(images)
        graph["graph"].replay()
        answer: Tensor = graph["answer"]
        return answer

    return call


def _record(function: Function, images: Tensor) -> dict[str, Any]:
    fixed, stream = images.clone(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function(fixed)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = function(fixed)
    return {"images": fixed, "graph": graph, "answer": answer}
