"""Counts that only grow: throttled periods, swapped pages, waits for memory, page faults. Read before and after."""

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rescompress.benchmarking.conditions import quota
from rescompress.benchmarking.conditions.files import CPUS, Files
from rescompress.cpu import UNAVAILABLE


@dataclass(frozen=True)
class Counters:
    """Counts since the machine started; of what the system doesn't tell, None.

    Attributes:
        swapped: pages that went to disk or came from it, of the whole machine.
        held_back: periods in which a control group had used up its quota.
        overheated: how often a core or package was throttled for its heat.
        starved_us: microseconds in which some process waited for memory (PSI).
    """

    swapped: int | None
    held_back: int | None
    overheated: int | None
    starved_us: int | None

    def since(self, before: "Counters") -> "Counters":
        """What was counted between two readings. A CPU that left takes its count along: never below 0."""
        return self._with(before, lambda now, then: max(0, now - then))

    def plus(self, other: "Counters") -> "Counters":
        """What was counted in two stretches of time."""
        return self._with(other, operator.add)

    def _with(self, other: "Counters", combined: Callable[[int, int], int]) -> "Counters":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Counters(*(None if None in pair else combined(*pair) for pair in pairs))


def read(files: Files) -> Counters:
    """All counts as they stand."""
    pages = files.table("proc/vmstat")
    heat = files.numbers(f"{CPUS}/cpu[0-9]*/thermal_throttle/*_throttle_count")
    return Counters(
        swapped=pages["pswpin"] + pages["pswpout"] if {"pswpin", "pswpout"} <= set(pages) else None,
        held_back=quota.held_back(files),
        overheated=sum(heat) if heat else None,
        starved_us=_starved(files),
    )


def _starved(files: Files) -> int | None:
    """``some avg10=0.00 avg60=0.00 avg300=0.00 total=1234`` of the kernel's pressure stall information."""
    for line in (files.text("proc/pressure/memory") or "").splitlines():
        kind, *pairs = line.split()
        total = dict(pair.split("=", 1) for pair in pairs).get("total")
        if kind == "some" and total:
            return int(total)
    return None


def major_faults(files: Files, processes: Iterable[int]) -> dict[int, int]:
    """Pages that each process had to wait for the disk for, by process (``man 5 proc``: ``majflt``)."""
    found = {}
    for process in processes:
        # the name in brackets may hold spaces and brackets itself
        fields = (files.text(f"proc/{process}/stat") or "").rpartition(")")[2].split()
        if len(fields) > 9:
            found[process] = int(fields[9])
    return found


def told(seen: Counters) -> Mapping[str, str]:
    """What happened between two readings, in words."""
    starved = UNAVAILABLE if seen.starved_us is None else f"{seen.starved_us / 1000:.0f} ms waited for"
    return {
        "quota throttling": _times(seen.held_back),
        "thermal throttling": _times(seen.overheated),
        "swap": UNAVAILABLE if seen.swapped is None else f"{seen.swapped} pages",
        "memory pressure": starved,
    }


def _times(count: int | None) -> str:
    return UNAVAILABLE if count is None else f"{count} times"
