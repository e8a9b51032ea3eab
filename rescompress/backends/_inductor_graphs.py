"""CUDA graphs around compiled code: all of a call's kernels are launched at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3
"""Calls before recording, on the stream that records: libraries set themselves up at their first calls."""


def recorded(compiled: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function of a batch of fixed size, recorded at its first call and replayed from then on.

    Its answer is overwritten by the next call, so it must be copied away.

    Args:
        compiled: a function of a tensor on the GPU that allocates nothing but through PyTorch.
    """
    kept: dict[str, Any] = {}

    def call(images: Tensor) -> Tensor:
        if not kept:
            kept.update(_record(compiled, images))
        kept["images"].copy_(images)
        kept["graph"].replay()
        answer: Tensor = kept["answer"]
        return answer

    return call


def _record(compiled: Callable[[Tensor], Tensor], images: Tensor) -> dict[str, Any]:
    fixed, stream = images.clone(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            compiled(fixed)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = compiled(fixed)
    return {"images": fixed, "graph": graph, "answer": answer}
