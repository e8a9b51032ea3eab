"""From the times of a runtime's kernels to those of our layers: what profiles of all backends share."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rescompress.timing import LayerTime

WARM_UP, LEAST_RUNS, MOST_RUNS = 5, 20, 200
SECONDS = 0.3
WEIGHTED = ("conv", "linear")


@dataclass(frozen=True)
class Kernel:
    """One thing that a runtime runs.

    Attributes:
        name: the runtime's own.
        op: the runtime's own word for what it does.
        ms: what it takes.
        nodes: of the file, what it was made of; none where it is the runtime's own conversion.
    """

    name: str
    op: str
    ms: float
    nodes: tuple[str, ...] = ()


def booked(kernels: Sequence[Kernel], kinds: Mapping[str, str]) -> tuple[LayerTime, ...]:
    """Each kernel under the layer that it computes; what computes none stands at the end, by the runtime's own names.

    Args:
        kernels: in order of execution.
        kinds: ``conv``, ``linear``, ``add`` or ``pool`` of each node of the file that is a layer. A kernel that
            computes several is booked under its first convolution or linear layer, or else under its first layer.
    """
    entries: dict[tuple[str, str], list[tuple[Kernel, list[str]]]] = {}
    for kernel in kernels:
        layers = [name for name in kernel.nodes if name in kinds]
        weighted = [name for name in layers if kinds[name] in WEIGHTED]
        main = next(iter((*weighted, *layers, *kernel.nodes, kernel.name)))
        at = main, kinds.get(main, kernel.op)
        entries.setdefault(at, []).append((kernel, [name for name in layers if name != main]))
    times = [
        LayerTime(
            layer,
            op,
            sum(kernel.ms for kernel, _ in parts),
            tuple(kernel.name for kernel, _ in parts),
            tuple(name for _, others in parts for name in others),
        )
        for (layer, op), parts in entries.items()
    ]
    return tuple(sorted(times, key=lambda each: each.layer not in kinds))


def repeated(run: Callable[[], object]) -> int:
    """Run again and again: the first 5 times to warm up, then at least 20 times, and longer where that is quick.

    Returns:
        How often it ran after the warm-up.
    """
    for _ in range(WARM_UP):
        run()
    count, end = 0, time.monotonic() + SECONDS
    while count < LEAST_RUNS or (count < MOST_RUNS and time.monotonic() < end):
        run()
        count += 1
    return count
