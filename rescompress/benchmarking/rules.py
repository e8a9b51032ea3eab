"""What a timing must keep to: ``p50>+5%`` and its kin, from text to a rule and back.

A rule names what must *not* be: METRIC, ``>`` or ``<``, LIMIT. A limit with a sign is a change against the baseline, in
percent, or for accuracy in points; one without a sign is a value with its unit.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from rescompress import catalog
from rescompress.errors import RecipeError

Sense = Literal[">", "<"]
TIME = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}
"""Units of time, in milliseconds."""
SIZE = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
"""Units of size, in bytes."""
RATE = {"/s": 1.0}
SHARE = {"%": 1.0}
POINTS = "points"
UNITS: dict[str, dict[str, float]] = {
    "p50": TIME,
    "p90": TIME,
    "p95": TIME,
    "p99": TIME,
    "first": TIME,
    "load": TIME,
    "size": SIZE,
    "rss": SIZE,
    "throughput": RATE,
    "accuracy": SHARE,
}
"""Each metric with the units that its values may have: latency's median and percentiles, a fresh process's first query
and load, the files' size, the process's largest memory, images a second, top-1."""
TIMED = tuple(metric for metric in UNITS if metric not in ("size", "accuracy"))
"""Metrics that the harness measures; the others are the artifact's own."""
_TOKENS = re.compile(
    r"""\s* (?P<metric> [A-Za-z]\w* )?
        \s* (?P<sense> [<>] )?
        \s* (?P<sign> [+-] )?
        \s* (?P<number> (?: \d+ (?: \.\d* )? | \.\d+ ) (?: [eE][+-]?\d+ )? )?
        \s* (?P<unit> .* )""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)


@dataclass(frozen=True)
class Rule:
    """What must not be.

    Attributes:
        metric: one of ``UNITS``.
        sense: on which side of the limit the metric must not lie.
        limit: in ``unit``.
        unit: ``%`` for a change, ``points`` for a change of accuracy; else a unit of the metric's own.
    """

    metric: str
    sense: Sense
    limit: float
    unit: str

    @property
    def relative(self) -> bool:
        """Whether the limit is a change against the baseline."""
        return self.unit == POINTS or (self.unit == "%" and self.metric != "accuracy")

    @property
    def bound(self) -> float:
        """The limit in percent or points if it is relative; else in milliseconds, bytes, images a second or percent."""
        return self.limit if self.relative else self.limit * UNITS[self.metric][self.unit]

    def crossed_by(self, value: float) -> bool:
        """Whether a value or change, in the unit of ``bound``, is what must not be."""
        return value > self.bound if self.sense == ">" else value < self.bound

    @property
    def told(self) -> str:
        """The limit for people, such as ``+5 %``."""
        space = "" if self.unit == "/s" else " "
        return f"{_number(self.limit, self.relative)}{space}{self.unit}"

    def __str__(self) -> str:
        unit = "" if self.unit == POINTS else self.unit
        return f"{self.metric}{self.sense}{_number(self.limit, self.relative)}{unit}"


def parse(text: str) -> Rule:
    """Read a rule.

    Raises:
        RecipeError: it is none; the sentence says at which character.
    """
    found = _TOKENS.fullmatch(text)
    assert found is not None, "every part may be missing"
    metric, sense, sign, number = (found[name] for name in ("metric", "sense", "sign", "number"))
    if metric not in UNITS:
        known = catalog.suggest(metric, list(UNITS)) if metric else f"Begin with one of: {', '.join(UNITS)}."
        raise _wrong(text, _begin(text, 0), f"{metric or 'that'} is no metric", known)
    if sense is None:
        after = _begin(text, found.end("metric"))
        raise _wrong(text, after, "there is no > or <", f"Write {metric}>LIMIT, as in {_example(metric)}.")
    if number is None or not math.isfinite(float(number)):
        after = _begin(text, max(found.end("sense"), found.end("sign")))
        raise _wrong(text, after, "there is no finite number", f"Write a limit, as in {_example(metric)}.")
    unit = _unit(text, metric, sign is not None, found["unit"].strip(), _begin(text, found.end("number")))
    return Rule(metric, ">" if sense == ">" else "<", float(f"{sign or ''}{number}"), unit)


def _unit(text: str, metric: str, signed: bool, unit: str, place: int) -> str:
    """The unit, checked against the metric."""
    if metric == "accuracy" and signed:
        if unit in ("", POINTS):
            return POINTS
        raise _wrong(text, place, f"{unit} is no unit of a change of accuracy", "Write points: accuracy<-0.5.")
    if signed:
        if unit == "%":
            return unit
        raise _wrong(text, place, "a change needs %", f"Write it with %, or without a sign: {_example(metric)}.")
    if unit in UNITS[metric]:
        return unit
    said = f"{unit!r} is no unit of {metric}" if unit else f"{metric} needs a unit"
    known = ", ".join(UNITS[metric])
    raise _wrong(text, place, said, f"Use {known}, or a change with its sign: {_example(metric)}.")


def _wrong(text: str, place: int, said: str, remedy: str) -> RecipeError:
    return RecipeError(f"The rule {text!r} can't be read at character {place + 1}: {said}.", remedy)


def _begin(text: str, place: int) -> int:
    """The first place from here on that holds no space."""
    return place + len(text[place:]) - len(text[place:].lstrip())


def _value(metric: str) -> str:
    samples = {"size": "size>10MB", "rss": "rss>500MB", "throughput": "throughput<100/s", "accuracy": "accuracy<90%"}
    return samples.get(metric, f"{metric}>12ms")


def _example(metric: str) -> str:
    changes = {"throughput": "throughput<-5%", "accuracy": "accuracy<-0.5"}
    return f"{changes.get(metric, f'{metric}>+5%')} or {_value(metric)}"


def _number(value: float, signed: bool) -> str:
    """As few digits as read back to the same number."""
    text = repr(abs(value)).removesuffix(".0")
    negative = str(value).startswith("-")
    return f"{'-' if negative else '+' if signed else ''}{text}"
