"""Whether the harness can be trusted: what it found of what was there, and what it adds itself."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sections import table

FALSE_ALARMS, FOUND, OVERHEAD = 0.02, {"found_5_percent": 0.90, "found_10_percent": 0.99}, 0.01
"""What is to be reached: at most 1 false alarm in 50, so much found, so little added to a query of 1 ms."""
SAID = {
    "false_alarms": "equal artifacts that were called different",
    "found_5_percent": "slower by 5 %, and found slower",
    "found_10_percent": "slower by 10 %, and found slower",
    "equal_interval_holds_1": "intervals of equal artifacts that hold 1",
}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A row for each thing that was counted, beside what is to be reached."""
    if "detection" in found:
        yield from _detection(found["detection"])
    if "overhead" in found:
        yield from _overhead(found["overhead"])


def _detection(found: dict[str, Any]) -> Iterator[str]:
    yield from table(("of all runs", "count", "share [95 %]", "to be reached"), [_cells(found, key) for key in SAID])
    verdicts = Counter(row["verdict"] for row in found["runs"])
    said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    low, high = found["launches"]
    yield f"Launches of a run: {low} to {high}; {found['seconds'] / 60:.0f} minutes in all; verdicts: {said}."
    yield ""


def _cells(found: dict[str, Any], key: str) -> tuple[str, ...]:
    count, total = found[key]["count"], found[key]["of"]
    ends = "[{:.1f}, {:.1f}]".format(*found[key]["percent"])
    cells = (SAID[key], f"{count} of {total}", f"{count / total:.1%} {ends}")
    if key == "false_alarms":
        return (*cells, f"at most {FALSE_ALARMS:.0%}: {_reached(count / total <= FALSE_ALARMS)}")
    if key in FOUND:
        return (*cells, f"at least {FOUND[key]:.0%}: {_reached(count / total >= FOUND[key])}")
    return (*cells, "-")


def _overhead(found: dict[str, Any]) -> Iterator[str]:
    value, low, high = (f"{part - 1:+.2%}" for part in found["harness_by_plain_loop"])
    reached = _reached(found["harness_by_plain_loop"][0] - 1 < OVERHEAD)
    yield f"The harness's clock beside a plain loop: {value} [{low}, {high}]; below {OVERHEAD:.0%}: {reached}."
    yield f"Of a worker's time, no query's clock counts {found['outside_the_clock']:.2%}."
    yield ""


def _reached(yes: bool) -> str:
    return "reached" if yes else "**not reached**"
