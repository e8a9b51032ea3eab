"""The only training loop: fine-tuning, distillation, sparse learning and QAT are the same loop with other losses."""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rescompress import checkpoint, data, graph, models, processes, progress
from rescompress.context import Context
from rescompress.errors import GateFailed, InputRefused, ResourceExhausted
from rescompress.layers import settled
from rescompress.training.batches import Batch, Feed
from rescompress.training.journal import Journal
from rescompress.training.schedule import Schedule, optimizer_of, rate
from rescompress.training.snapshot import Snapshots, State
from rescompress.training.synchronized import SynchronizedNorms

Loss = Callable[[nn.Module, Batch], Tensor]
HALF = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAST_GOOD = "last-good.safetensors"
EXPLODED = 1e4
"""Times the first loss beyond which training has gone wrong, though the loss is still a number."""


def train(
    model: nn.Module,
    ctx: Context,
    schedule: Schedule,
    loss: Loss,
    purpose: str,
    *,
    extra: nn.Module | None = None,
    labels: bool = True,
) -> nn.Module:
    """A trained copy of the model.

    Equal seeds, data and thread counts give equal weights on a CPU, also where the training was stopped at any step and
    started again, if the context has a folder to keep its state in. The number of processes changes nothing but the
    order in which sums are rounded.

    Args:
        model: what to start from.
        ctx: where images, seed, device and folder come from.
        schedule: how long and how hard to train.
        loss: from the model and a batch to the mean loss of the batch.
        purpose: names the stage in messages and gives it random draws of its own.
        extra: further modules that the loss uses; they are trained along in place, and thrown away by the caller.
        labels: whether the loss needs labels, so that the model must give back logits.

    Raises:
        RecipeError: there are no images, or more processes than a batch can be dealt to.
        InputRefused: the model gives back maps, which have no labels.
        GateFailed: the loss exploded; the last good model is kept in the context's folder.
        ResourceExhausted: not even a part of a batch fits into memory.
        WorkerCrashed: images can't be read any more.
    """
    ctx.images(purpose)
    if labels and models.spec_of(model).output != "logits":
        raise InputRefused(f"{purpose} trains classifiers, and this model gives back maps.", "Leave the stage out.")
    training = _Training(model, ctx, schedule, loss, purpose, extra)
    with torch.random.fork_rng(devices=[]), _tuned(ctx.device):
        return training.run()


@contextlib.contextmanager
def _tuned(device: str) -> Iterator[None]:
    """Let a GPU try its convolutions out and take the fastest; runs then differ in their last bits there."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = device != "cpu"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class _Training:
    """One training from its first step, or from where it was stopped, to its last."""

    def __init__(
        self, model: nn.Module, ctx: Context, schedule: Schedule, loss: Loss, purpose: str, extra: nn.Module | None
    ) -> None:
        self._ctx, self._schedule, self._loss, self._purpose = ctx, schedule, loss, purpose
        self._spec = models.spec_of(model)
        self._feed = Feed(ctx, self._spec.preprocessing, schedule, purpose)
        student = graph.clone(model).to(ctx.device).train()
        student.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # a fifth faster on CPUs
        extra = (nn.ModuleList() if extra is None else extra).to(ctx.device).train()
        self._device = torch.device(ctx.device).type
        scaler = torch.amp.GradScaler(self._device, enabled=schedule.amp == "fp16")
        self._state = State(student, extra, optimizer_of(schedule, student, extra), scaler)
        if schedule.ema:
            self._state.mean = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        self._snapshots = Snapshots(ctx.scratch)
        self._first: float | None = None

    def run(self) -> nn.Module:
        """Train to the end, and give back the student."""
        state, facts = self._state, self._state.facts
        if self._snapshots.resume(state):
            facts = state.facts
            progress.note(f"{self._purpose}: goes on from step {facts['step']} of {self._feed.steps}.")
        for tensor in state.student.state_dict().values():
            processes.told_tensor(tensor)
        wrapped = _shared(state.student) if processes.size() > 1 else state.student
        begun, steps = facts["step"], self._feed.steps
        source = progress.track(self._feed.since(begun), self._purpose, steps, begun, per_step=self._schedule.batch)
        with Journal(self._ctx.scratch, self._purpose, self._ctx.trackers, begun) as journal:
            for batch in source:
                value = self._step(wrapped, batch)
                facts["step"] = batch.step + 1
                self._journal(journal, batch, value)
                if facts["step"] % self._feed.epoch_steps == 0 and self._is_over(journal, facts["step"]):
                    break
                self._snapshots.keep(state)
        source.close()
        return self._finished()

    def _step(self, wrapped: nn.Module, batch: Batch) -> float:
        """One step of the optimizer; gives back the loss."""
        state, schedule = self._state, self._schedule
        share = rate(batch.step, batch.steps, schedule.warmup)
        for group in state.optimizer.param_groups:
            group["lr"] = schedule.lr * share
        torch.manual_seed(self._ctx.generator(f"{self._purpose}/noise {batch.step}").initial_seed())
        value = self._gradients(wrapped, batch)
        state.scaler.unscale_(state.optimizer)
        if schedule.clip:
            parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, schedule.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        for name, tensor in state.student.state_dict().items() if schedule.ema else ():
            mean = state.mean[name]
            mean.lerp_(tensor, 1 - schedule.ema) if mean.is_floating_point() else mean.copy_(tensor)
        return value

    def _gradients(self, wrapped: nn.Module, batch: Batch) -> float:
        """Gradients of the mean loss; where memory runs out, of one half of the batch after the other."""
        state = self._state
        while True:
            try:
                return self._accumulate(wrapped, batch, state.facts["parts"])
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
            state.optimizer.zero_grad(set_to_none=True)
            state.facts["parts"] *= 2
            parts = state.facts["parts"]
            if processes.size() > 1 or len(batch.images) < 2 * parts:
                raise ResourceExhausted(
                    f"{self._purpose} runs out of memory with batches of {len(batch.images)} images.",
                    "Lower schedule.batch, or free memory.",
                )
            if self._device == "cuda":
                torch.cuda.empty_cache()
            progress.note(f"{self._purpose}: out of memory; each batch is now taken in {parts} parts.")

    def _accumulate(self, wrapped: nn.Module, batch: Batch, parts: int) -> float:
        state, total = self._state, 0.0
        for part in batch.parts(parts) if parts > 1 else (batch,):
            with self._half(), SynchronizedNorms() if processes.size() > 1 else contextlib.nullcontext():
                value = self._loss(wrapped, part)
            self._check(float(value.detach()))
            torch.autograd.backward(state.scaler.scale(value * part.share))
            total += float(value.detach()) * part.share
        if processes.size() > 1:
            for parameter in state.extra.parameters():
                if parameter.grad is not None:
                    parameter.grad = processes.total(parameter.grad) / processes.size()
        return total

    def _half(self) -> torch.autocast:
        amp = self._schedule.amp
        return torch.autocast(self._device, HALF[amp], enabled=amp != "off")

    def _check(self, value: float) -> None:
        """Stop at a loss that exploded.

        Raises:
            GateFailed: it did.
        """
        self._first = value if self._first is None else self._first
        if math.isfinite(value) and abs(value) <= EXPLODED * max(1.0, abs(self._first)):
            return
        grew = f"exploded from {self._first:.3g} to {value:.3g}"
        said = grew if math.isfinite(value) else "is no longer a number"
        remedy = "Lower schedule.lr, raise warmup or clip gradients."
        raise GateFailed(f"The loss of {self._purpose} {said}.", f"{remedy}{self._keep_last_good()}")

    def _keep_last_good(self) -> str:
        """Write the model as the last snapshot holds it, where there is one; a sentence that says where it is."""
        if self._ctx.scratch is None or not self._snapshots.resume(self._state):
            return ""
        good = models.describe(self._finished(keep=True), self._spec)
        if processes.is_main():
            checkpoint.save(good, self._ctx.scratch / LAST_GOOD)
        return f" The model of step {self._state.facts['step']} is kept in {self._ctx.scratch / LAST_GOOD}."

    def _journal(self, journal: Journal, batch: Batch, value: float) -> None:
        epoch = (batch.step + 1) / self._feed.epoch_steps
        learning_rate = self._state.optimizer.param_groups[0]["lr"]
        journal.step(batch.step, epoch, value, learning_rate, len(batch.images) * processes.size())

    def _is_over(self, journal: Journal, step: int) -> bool:
        """Judge an epoch on the calibration split, where that is wanted; whether training ends here."""
        state, facts, schedule = self._state, self._state.facts, self._schedule
        if not schedule.patience:
            return False
        found = self._judged()
        journal.log(step, {"epoch": step / self._feed.epoch_steps, "calibration_accuracy": found})
        if found > facts["best_accuracy"]:
            facts["best_accuracy"], facts["stale"] = found, 0
            now = state.mean or state.student.state_dict()
            state.best = {name: tensor.detach().cpu().clone() for name, tensor in now.items()}
        else:
            facts["stale"] += 1
        if facts["stale"] < schedule.patience:
            return False
        progress.note(f"{self._purpose}: ends after {step} of {self._feed.steps} steps, for nothing gets better.")
        return True

    def _judged(self) -> float:
        """Accuracy on the calibration split, in percent, each image judged by one process."""
        student, split = self._state.student, self._ctx.images(self._purpose).calibration
        judged = student
        if self._state.mean:
            judged = graph.clone(student)
            judged.load_state_dict(self._state.mean)
        mine = processes.share(len(split))
        seen = data.batches(split, self._spec.preprocessing, self._schedule.batch, rows=mine)
        right = [(models.predict(judged, [images]).argmax(1) == labels).sum() for images, labels in seen]
        counted = processes.total(torch.stack(right).sum()) if right else processes.total(torch.tensor(0))
        return 100 * float(counted) / len(split)

    def _finished(self, *, keep: bool = False) -> nn.Module:
        """The student as a file would give it back; its snapshots go, unless they are kept."""
        state = self._state
        state.student.load_state_dict(state.best or state.mean or state.student.state_dict())
        student = state.student.cpu()
        state.extra.cpu()
        for tensor in (*student.parameters(), *student.buffers()):
            tensor.data = settled(tensor)
        if not keep:
            self._snapshots.drop()
        return student.eval()


def _shared(student: nn.Module) -> nn.Module:
    """The model with its gradients averaged over all processes; synchronized BatchNorm keeps the buffers equal."""
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    settings: dict[str, Any] = {name: False, "find_unused_parameters": models.spec_of(student).output == "maps"}
    return DistributedDataParallel(student, **settings)


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a GPU says so by a class of its own, PyTorch's allocator on CPUs by words."""
    said = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in said
