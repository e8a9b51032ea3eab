"""What may have slowed a machine down while something was timed, and from where on it counts."""

from collections.abc import Iterator
from dataclasses import dataclass

_PER_SECOND = 1
_STARVED = 0.01
_CLOCK_DROP = 0.05
_WARMING = 3.0


@dataclass(frozen=True)
class Disturbance:
    """What was seen while timing. None means that this system does not tell.

    Attributes:
        seconds: how long was timed.
        held_back: periods in which a control group had used up its quota.
        overheated: how often the processor was throttled for its heat.
        swapped: pages that the machine wrote to disk or read from it.
        major_faults: pages that the runtimes had to wait for the disk for.
        starved: share of the time in which some process waited for memory.
        clock_drop: by what share the processor's clock was lower in one third of the time than in another.
        warming: degrees by which the processor was still getting warmer at the end.
        on_battery: no mains.
        gpu: a GPU was timed; nothing below is looked for elsewhere.
        gpu_throttled: what slowed the GPU down.
        gpu_clock_drop: as of the processor.
        gpu_warming: as of the processor.
        gpu_others: programs of others that compute on the same GPU.
    """

    seconds: float = 0.0
    held_back: int | None = None
    overheated: int | None = None
    swapped: int | None = None
    major_faults: int | None = None
    starved: float | None = None
    clock_drop: float | None = None
    warming: float | None = None
    on_battery: bool | None = None
    gpu: bool = False
    gpu_throttled: tuple[str, ...] | None = None
    gpu_clock_drop: float | None = None
    gpu_warming: float | None = None
    gpu_others: int | None = None


def reasons(seen: Disturbance) -> Iterator[str]:
    """A sentence for each thing that went beyond its limit: the numbers are only indicative then."""
    yield from _throttled(seen)
    yield from _short_of_memory(seen)
    for name, drop, warming in (
        ("The processor", seen.clock_drop, seen.warming),
        ("The GPU", seen.gpu_clock_drop, seen.gpu_warming),
    ):
        if drop is not None and drop > _CLOCK_DROP:
            yield f"{name}'s clock fell by {drop:.1%} (clock drop); {_CLOCK_DROP:.0%} is the limit."
        if warming is not None and warming > _WARMING:
            yield f"{name} was still getting warmer, by {warming:.1f} °C at the end; {_WARMING:.0f} °C is the limit."
    if seen.on_battery:
        yield "The machine ran on its battery."
    if seen.gpu_others:
        yield f"{seen.gpu_others} other programs computed on the GPU (foreign load)."


def unseen(seen: Disturbance) -> Iterator[str]:
    """One sentence that says what could not be seen; it changes no verdict."""
    asked: dict[str, object] = {
        "quota throttling": seen.held_back,
        "thermal throttling": seen.overheated,
        "swapping": seen.swapped,
        "major faults": seen.major_faults,
        "the processor's clock": seen.clock_drop,
        "its temperature": seen.warming,
    }
    if seen.gpu:
        asked |= {
            "the GPU's throttling": seen.gpu_throttled,
            "its clock": seen.gpu_clock_drop,
            "what else runs on it": seen.gpu_others,
        }
    lacking = [name for name, value in asked.items() if value is None]
    if lacking:
        yield f"Unavailable on this system, or seen too briefly: {', '.join(lacking)}."


def _throttled(seen: Disturbance) -> Iterator[str]:
    if seen.held_back:
        yield f"The control group's CPU quota held the process back {seen.held_back} times (throttling)."
    if seen.overheated:
        yield f"The processor was throttled for its heat {seen.overheated} times (throttling)."
    if seen.gpu_throttled:
        yield f"The GPU was slowed down by {', and by '.join(seen.gpu_throttled)} (throttling)."


def _short_of_memory(seen: Disturbance) -> Iterator[str]:
    most = _PER_SECOND * seen.seconds
    if seen.swapped is not None and seen.swapped > most:
        yield f"The machine swapped {seen.swapped} pages in {seen.seconds:.0f} s; {_PER_SECOND} a second is the limit."
    if seen.major_faults is not None and seen.major_faults > most:
        yield (
            f"The runtimes waited for the disk for {seen.major_faults} pages in {seen.seconds:.0f} s (major faults); "
            f"{_PER_SECOND} a second is the limit."
        )
    if seen.starved is not None and seen.starved > _STARVED:
        yield f"Processes waited for memory in {seen.starved:.1%} of the time; {_STARVED:.0%} is the limit."
