"""What differs between runs: machine, releases, settings of the timing, and the recipes value by value."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from rescompress.benchmarking.results import Results
from rescompress.reporting import footnotes, wording
from rescompress.timing import BenchmarkRow

ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """One fact that is not the same everywhere: its name, and its value in each of the sides."""

    name: str
    values: tuple[str, ...]


def of_environments(found: Sequence[Results]) -> tuple[Difference, ...]:
    """Facts of the machine, releases and settings that differ; what a side lacks is ``absent``."""
    return _differing([dict(_facts(one)) for one in found])


def of_recipes(texts: Sequence[str | None]) -> tuple[Difference, ...]:
    """Values of recipes that differ, by their path, such as ``stages.quantize.observer``.

    Args:
        texts: each side's recipe as YAML; None of a side that has none.
    """
    flat = [dict(_values("", yaml.safe_load(text))) if text else {} for text in texts]
    given = [one for one in flat if one]
    keys = {key for key in _keys(flat) if len({one.get(key) for one in given}) > 1}
    return _differing([{key: value for key, value in one.items() if key in keys} for one in flat])


def settings(row: BenchmarkRow) -> str:
    """How a benchmark was done, such as ``batch 1, 1 thread, 5 launches``."""
    scenario = "" if row.scenario == "interleaved" else f"{row.scenario}, "
    target = "".join(f", {name} {value:g}" for name, value in row.target.items())
    where = f", on {row.device}" if row.device else ""
    threads = "1 thread" if row.threads == 1 else f"{row.threads} threads"
    return f"{scenario}batch {row.batch}, {threads}, {row.launches} launches{target}{where}"


def _facts(one: Results) -> Iterator[tuple[str, str]]:
    yield "rescompress", one.tool_version
    for name, value in footnotes.machine(one.environment):
        if name != "Packages":
            yield name, value
    for package, release in sorted(one.environment.packages.items()):
        if package != "rescompress":
            yield package, release
    if one.benchmark:
        yield "Timing", settings(one.benchmark)


def _values(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every value by its path; an item of a list that is one ``name: {…}`` goes by its name."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _values(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) and len(item) == 1 for item in value):
        names = [next(iter(item)) for item in value]
        yield path, ", ".join(map(str, names))
        for place, (name, item) in enumerate(zip(names, value, strict=True)):
            several = f".{place}" if names.count(name) > 1 else ""
            yield from _values(f"{path}{several}.{name}", item[name])
    else:
        yield path, wording.knob(value)


def _keys(sides: Sequence[Mapping[str, str]]) -> list[str]:
    """All keys; those of a later side stand behind those of the ones before."""
    return list(dict.fromkeys(key for one in sides for key in one))


def _differing(sides: Sequence[Mapping[str, str]]) -> tuple[Difference, ...]:
    found = (Difference(key, tuple(one.get(key, ABSENT) for one in sides)) for key in _keys(sides))
    return tuple(one for one in found if len(set(one.values)) > 1)
