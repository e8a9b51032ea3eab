"""Several processes that do one job: who am I, how many are we, and what only one of us may do.

Any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT works, such as ``torchrun``.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
from torch import Tensor, distributed

from rescompress.errors import WorkerCrashed

PATIENCE = timedelta(hours=12)
"""Longest wait for the main process, which may export and time for long while the others stand by."""


_apart = [False]


def rank() -> int:
    """Number of this process, 0 for the main one."""
    return distributed.get_rank() if _together() else 0


def size() -> int:
    """How many processes do this job."""
    return distributed.get_world_size() if _together() else 1


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def device() -> str:
    """The accelerator of this process: the one with its local number, if there is any."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the processes that a launcher started; alone, or where they are joined already, do nothing.

    Raises:
        WorkerCrashed: another process ended, so that this one can't go on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or distributed.is_initialized():
        yield
        return
    kind = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(kind, timeout=PATIENCE)
    try:
        yield
    except (distributed.DistBackendError, RuntimeError) as error:
        if "gloo" not in str(error).lower() and not isinstance(error, distributed.DistBackendError):
            raise
        raise WorkerCrashed(
            "Another process of this job ended.", "Look at what it said, and start all of them again."
        ) from error
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Work that one process does without the others: in this block it counts as alone."""
    before, _apart[0] = _apart[0], True
    try:
        yield
    finally:
        _apart[0] = before


def wait() -> None:
    """Wait until every process got here."""
    if _together():
        distributed.all_reduce(torch.zeros(1))


def told(value: bool) -> bool:
    """What the main process says, in every process."""
    return bool(told_tensor(torch.tensor([int(value)]))[0])


def told_tensor(tensor: Tensor) -> Tensor:
    """The main process's tensor, in every process; in place."""
    if _together():
        distributed.broadcast(tensor, 0)
    return tensor


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, in every process; in place."""
    if _together():
        distributed.all_reduce(tensor)
    return tensor


def share(count: int) -> range:
    """The places of ``count`` things that fall to this process: neighbours, each to one process only."""
    return range(count * rank() // size(), count * (rank() + 1) // size())


def _together() -> bool:
    return not _apart[0] and distributed.is_available() and distributed.is_initialized()
