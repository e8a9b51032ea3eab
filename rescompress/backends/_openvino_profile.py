"""What OpenVINO's own counters say of each layer of a compiled model."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rescompress.backends._layer_times import WARM_UP, Kernel, booked, repeated
from rescompress.timing import LayerTime

EXECUTED = "EXECUTED"
Counters = Mapping[str, float]
"""Mean time of one run of each layer in microseconds, by its name in the compiled model."""


def read(
    query: Callable[[], object],
    counters: Callable[[], Counters],
    runs: int,
    made_of: Mapping[str, tuple[str, ...]],
    ops: Mapping[str, str],
    kinds: Mapping[str, str],
) -> tuple[tuple[LayerTime, ...], float]:
    """Layers with the mean of their times, and the median of whole queries, in ms.

    The counters tell means since the first run, in whole microseconds. So what they say after the warm-up is taken off
    what they say at the end, which leaves an error of about a microsecond a layer. A query also waits for OpenVINO's
    own thread, which on a busy machine takes longer than many layers.

    Args:
        query: runs the model on some images.
        counters: reads the counters.
        runs: that one query takes: several, where the batch is fixed and there are more images.
        made_of: the nodes of the file that a layer was made of.
        ops: OpenVINO's own word for what a layer does.
        kinds: of the file's nodes, as ``booked`` takes them.
    """
    whole, told = list[int](), list[Counters]()

    def once() -> None:
        begin = time.perf_counter_ns()
        query()
        whole.append(time.perf_counter_ns() - begin)
        told.append(counters())

    queries = repeated(once)
    first, last = told[WARM_UP - 1], told[-1]
    us = {name: (last[name] * len(told) - first.get(name, 0.0) * WARM_UP) * runs / queries for name in last}
    kernels = [Kernel(name, ops[name], max(0.0, us[name]) / 1e3, made_of[name]) for name in last]
    return booked(kernels, kinds), float(np.median(whole[WARM_UP:])) / 1e6


def counters_of(request: Any) -> dict[str, float]:
    """The counters of an inference request, of what it has run."""
    return {
        info.node_name: info.real_time.total_seconds() * 1e6
        for info in request.get_profiling_info()
        if info.status.name == EXECUTED
    }
