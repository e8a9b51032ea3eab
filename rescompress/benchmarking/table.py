"""The latency table of a runtime on this machine: measured once, kept on disk, interpolated between widths."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rescompress import progress
from rescompress.benchmarking import lattice
from rescompress.benchmarking.cache import Cache
from rescompress.benchmarking.lattice import Lattice
from rescompress.benchmarking.layers import LayerShape, Target
from rescompress.benchmarking.probes import Probe, export, terms
from rescompress.benchmarking.statistics import quiet, settled
from rescompress.worker import Worker

_TOGETHER = 24
_ROUNDS, _MOST_ROUNDS = 7, 28
_BLOCK_SECONDS = 0.005
_LEAD_IN = 0.2
_LEAST_SHARE = 0.05  # of a layer's own graph; a layer that vanishes in the noise of its ends still takes time


class Table:
    """An ``Estimator`` that measures each distinct layer in the target's runtime.

    Args:
        target: the runtime, its precision, threads and batch.
    """

    modelled = False

    def __init__(self, target: Target) -> None:
        self.name = f"{target.backend} {target.precision}"
        self._target = target
        self._cache = Cache(target)
        self._seconds = self._cache.read()
        self._lattices: dict[LayerShape, Lattice] = {}

    def prepare(self, shapes: Iterable[LayerShape]) -> None:
        """Measure what is missing to tell of all these shapes.

        Where many widths of a layer are asked for, some are measured, the narrowest and the widest among them.

        Raises:
            WorkerCrashed: the runtime died.
        """
        asked: dict[LayerShape, set[lattice.Widths]] = {}
        for shape in shapes:
            asked.setdefault(lattice.kind(shape), set()).add(lattice.widths(shape))
        wanted: list[LayerShape] = []
        for kind, pairs in asked.items():
            pairs = {pair for pair in pairs if not self._known(lattice.widened(kind, pair))}
            chosen = lattice.chosen(pairs)
            if chosen is not None:
                self._lattices[kind] = chosen
            wanted += [lattice.widened(kind, pair) for pair in (chosen.pairs if chosen else sorted(pairs))]
        self._measure({probe for shape in wanted for probe in terms(shape)})

    def seconds(self, shape: LayerShape) -> float:
        """Time of one run of the layer on one batch, in seconds; measured now if it was not prepared."""
        grid = self._lattices.get(lattice.kind(shape))
        if grid is not None and not self._known(shape):
            return grid.between(
                lattice.widths(shape), lambda pair: self._exact(lattice.widened(lattice.kind(shape), pair))
            )
        if not self._known(shape):
            self.prepare([shape])
        return self._exact(shape)

    def _known(self, shape: LayerShape) -> bool:
        return all(str(probe) in self._seconds for probe in terms(shape))

    def _exact(self, shape: LayerShape) -> float:
        parts = {probe: self._seconds[str(probe)] for probe in terms(shape)}
        own = next(seconds for probe, seconds in parts.items() if probe.kind == "layer")
        return max(sum(count * parts[probe] for probe, count in terms(shape).items()), _LEAST_SHARE * own)

    def _measure(self, probes: Iterable[Probe]) -> None:
        """Time what is missing and write it down after every few graphs, so that an interrupted run goes on."""
        missing = sorted({probe for probe in probes if str(probe) not in self._seconds}, key=str)
        waiting: list[Probe] = []
        with tempfile.TemporaryDirectory() as name:
            folders: dict[Probe, Path] = {}
            for i, probe in enumerate(progress.track(missing, f"latency table of {self.name}")):
                folders[probe] = export(probe, self._target, Path(name) / str(i))
                waiting.append(probe)
                if len(waiting) == _TOGETHER or i == len(missing) - 1:
                    timed = _time(waiting, folders, self._target)
                    self._cache.add(timed)
                    self._seconds.update(timed)
                    waiting = []


def _time(probes: Sequence[Probe], folders: Mapping[Probe, Path], target: Target) -> dict[str, float]:
    """The graphs' latencies in seconds, in turns and in one process of their own.

    On a busy machine there are more turns, until each graph has run undisturbed a few times.
    """
    blocks: list[list[NDArray[np.int64]]] = [[] for _ in probes]
    with Worker(folders[probes[0]], target.threads) as worker:
        worker.ready()
        for probe in probes[1:]:
            worker.load(folders[probe])
        for place, probe in enumerate(probes):
            worker.hold(_noise(probe, target.batch), place)
            worker.time(_BLOCK_SECONDS, target.batch, 2, place)
        for turn in range(_MOST_ROUNDS):
            for place, found in enumerate(blocks):
                if turn < _ROUNDS or not settled(found):
                    worker.time(_LEAD_IN * _BLOCK_SECONDS, target.batch, 1, place)
                    found.append(np.array(worker.time(_BLOCK_SECONDS, target.batch, 2, place), np.int64))
    return {str(probe): quiet(found) / 1e9 for probe, found in zip(probes, blocks, strict=True)}


def _noise(probe: Probe, batch: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((batch + 1, *probe.input_shape), np.float32)
