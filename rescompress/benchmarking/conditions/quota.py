"""How much of the CPU a control group leaves a process, and how often it was held back (``man 7 cgroups``)."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from rescompress.benchmarking.conditions.files import Files
from rescompress.cpu import UNAVAILABLE

ROOT = "sys/fs/cgroup"


def cores(files: Files) -> float | None:
    """CPUs' worth of time that the tightest group on the way up allows; infinite where none limits it.

    None where control groups aren't told.
    """
    allowed = [limit for folder in _folders(files) if (limit := _limit(files, folder)) is not None]
    return min(allowed) if allowed else None


def told(files: Files) -> str:
    """The quota in words."""
    limit = cores(files)
    return UNAVAILABLE if limit is None else "none" if limit == float("inf") else f"{limit:.2f} CPUs"


def held_back(files: Files) -> int | None:
    """Periods in which a group on the way up had used up its quota (``nr_throttled``)."""
    counts = [files.table(f"{folder}/cpu.stat").get("nr_throttled") for folder in _folders(files)]
    told = [count for count in counts if count is not None]
    return sum(told) if told else None


def _limit(files: Files, folder: str) -> float | None:
    """Version 2 says ``200000 100000`` or ``max 100000``; version 1 -1 where there is no quota."""
    said = (files.text(f"{folder}/cpu.max") or "").split()
    if len(said) == 2:
        return float("inf") if said[0] == "max" else int(said[0]) / int(said[1])
    quota, period = files.number(f"{folder}/cpu.cfs_quota_us"), files.number(f"{folder}/cpu.cfs_period_us")
    if quota is None or not period:
        return None
    return float("inf") if quota < 0 else quota / period


def _folders(files: Files) -> Iterator[str]:
    """This process's group and those above it. In a container the group's own name may not exist: its root stands."""
    for line in (files.text("proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        base = ROOT if not controllers else f"{ROOT}/cpu" if "cpu" in controllers.split(",") else None
        below = PurePosixPath(path.lstrip("/"))
        yield from (f"{base}/{part}" for part in (below, *below.parents) if base and ".." not in part.parts)
