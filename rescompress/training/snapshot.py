"""The state of a training on disk, from which it goes on bit by bit as if it had never been stopped."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rescompress import artifact, processes

FILE = "snapshot.safetensors"
EVERY_S, LARGEST_SHARE = 30.0, 0.02
"""A snapshot is written after so many seconds, or later where writing would take more than this share of the time."""


@dataclass
class State:
    """All that changes while a model is trained.

    Attributes:
        student: the model.
        extra: further modules that are trained along.
        optimizer: of both.
        scaler: of the loss in half precision.
        mean: moving average of the model's tensors, where one is wanted.
        best: the model's tensors after the epoch of the best accuracy, where training may end early.
        facts: numbers, as JSON has them: ``step``, ``best_accuracy``, ``stale``, ``parts``.
    """

    student: nn.Module
    extra: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    mean: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=lambda: {"step": 0, "best_accuracy": -1.0, "stale": 0, "parts": 1})

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by a name of its own."""
        groups = {"student": self.student.state_dict(), "extra": self.extra.state_dict()}
        groups |= {"mean": self.mean, "best": self.best, "optimizer": self._moments()}
        return {f"{group}/{name}": tensor for group, found in groups.items() for name, tensor in found.items()}

    def _moments(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {f"{place}/{name}": torch.as_tensor(v) for place, of_one in state.items() for name, v in of_one.items()}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take over another state of the same training."""
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = tensor
        self.student.load_state_dict(groups.get("student", {}))
        self.extra.load_state_dict(groups.get("extra", {}))
        device = next(self.student.parameters()).device
        self.mean = {name: t.to(device) for name, t in groups.get("mean", {}).items()}
        self.best = groups.get("best", {})
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups.get("optimizer", {}).items():
            place, _, kind = name.partition("/")
            like = parameters[int(place)]
            same = tensor.shape == like.shape and kind != "step"
            moments.setdefault(int(place), {})[kind] = torch.empty_like(like).copy_(tensor) if same else tensor
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**whole, "state": moments})
        self.scaler.load_state_dict(facts.pop("scaler", {}) or self.scaler.state_dict())
        self.facts = facts


class Snapshots:
    """Where a training's snapshots lie; nothing is kept without a folder.

    Args:
        folder: of this training alone; None keeps nothing.
        clock: seconds that pass.
    """

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = folder / FILE if folder else None
        self._clock = clock
        self._last, self._cost = clock(), 0.0

    def resume(self, state: State) -> bool:
        """Go on from the last snapshot, if there is one that can be read."""
        if self._file is None or not self._file.is_file():
            return False
        try:
            with safe_open(self._file, "pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            state.restore(tensors, facts)
        except (SafetensorError, KeyError, ValueError, RuntimeError, OSError):
            return False
        return True

    def keep(self, state: State, *, now: bool = False) -> None:
        """Write the state if it is time, from the main process."""
        due = self._clock() - self._last >= max(EVERY_S, self._cost / LARGEST_SHARE)
        if self._file is None or not (due or now) or not processes.is_main():
            return
        begun = self._clock()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors().items()}
        metadata = {"facts": json.dumps({**state.facts, "scaler": state.scaler.state_dict()})}
        with artifact.writing(self._file) as temporary:
            temporary.write_bytes(save(tensors, metadata))
        self._last = self._clock()
        self._cost = self._last - begun

    def drop(self) -> None:
        """Remove what is no longer needed."""
        if self._file is not None and processes.is_main():
            self._file.unlink(missing_ok=True)
