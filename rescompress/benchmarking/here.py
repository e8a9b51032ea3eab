"""This machine as the place where artifacts are timed; a remote device is the other."""

import itertools
import random
from types import TracebackType
from typing import Protocol

from rescompress.benchmarking import machine
from rescompress.benchmarking.candidates import Candidates
from rescompress.benchmarking.conditions import Watch, gpu_queries, on_gpu
from rescompress.benchmarking.conditions.disturbance import Disturbance
from rescompress.benchmarking.method import Launch, Plan, launch


class Place(Protocol):
    """Where artifacts are timed, while a benchmark goes on there and after."""

    @property
    def device(self) -> str:
        """Empty for this machine, else how the device is reached and its processor."""
        ...

    @property
    def load(self) -> machine.Load | None:
        """What else it did meanwhile; None where it doesn't tell."""
        ...

    def launch(self) -> Launch:
        """The next launch of all candidates."""
        ...

    def conditions(self) -> dict[str, str]:
        """What may explain the numbers, in words."""
        ...

    def disturbance(self) -> Disturbance | None:
        """What happened to it; None where nobody looked."""
        ...


class Here:
    """This machine, watched while it times.

    Args:
        candidates: who takes part.
        plan: how they are timed.
        seed: of the order of the blocks.
    """

    device = ""

    def __init__(self, candidates: Candidates, plan: Plan, seed: int) -> None:
        self._candidates, self._plan = candidates, plan
        self._order = random.Random(seed)  # noqa: S311 - the order of blocks is no secret
        self._numbers = itertools.count()
        self._watch = Watch(gpu=any(on_gpu(artifact.manifest) for artifact in candidates.artifacts))
        self.load: machine.Load | None = None

    def __enter__(self) -> "Here":
        self._before = machine.clock()
        self._watch.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.__exit__(kind, error, trace)
        self.load = machine.load(self._before, machine.clock())

    def launch(self) -> Launch:
        """The next launch: a fresh process for each candidate."""
        plan = self._plan.in_launch(next(self._numbers))
        return launch(self._candidates.folders, self._candidates.rings, plan, self._order, self._watch)

    def conditions(self) -> dict[str, str]:
        """All that was seen, in words."""
        return {**self._watch.conditions(), **gpu_queries([one.manifest for one in self._candidates.artifacts[:-1]])}

    def disturbance(self) -> Disturbance | None:
        """What happened to the machine."""
        return self._watch.disturbance()
