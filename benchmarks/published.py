"""Where results are kept: ``results/NAME.json``, with the machines and the releases that they were measured on.

A file holds ``schema``, what its script found, and ``machines`` by their fingerprints. The fingerprint stands once, or
beside each part and row that was measured by itself: numbers of equal fingerprints may be compared. No file tells the
time, a path or a host, so that measuring the same again gives the same layout. ``readme.py`` makes a page of all.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rescompress import artifact
from rescompress.benchmarking import machine

FOLDER = Path(__file__).resolve().parent / "results"
SCHEMA = "rescompress.results/1"
Row = dict[str, Any]


def read(name: str) -> Row:
    """What is kept of a benchmark so far; empty if it never ran."""
    file = FOLDER / f"{name}.json"
    return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else {}


def write(name: str, found: Row) -> None:
    """Keep what a benchmark found, atomically; every machine is written once, however many parts it measured."""
    machines = dict(read(name).get("machines", {}))
    whole = _apart(found, machines)
    used = {mark: machines[mark] for mark in marks(whole)}
    artifact.write_bytes(FOLDER / f"{name}.json", artifact.to_json({"schema": SCHEMA, **whole, "machines": used}))


def here() -> Row:
    """This machine and its releases, with their fingerprint; beside the numbers that were measured on it."""
    found = machine.environment()
    return {"environment": vars(found), "fingerprint": machine.fingerprint(found)}


def replaced(before: Sequence[Row], rows: Sequence[Row], *keys: str) -> list[Row]:
    """The rows of before, those that were measured again left out, and the new ones behind them."""
    again = {tuple(row[key] for key in keys) for row in rows}
    return [row for row in before if tuple(row[key] for key in keys) not in again] + list(rows)


def marks(found: Any) -> list[str]:
    """Every fingerprint in what was found, in its order."""
    if isinstance(found, (list, tuple)):
        return list(dict.fromkeys(mark for part in found for mark in marks(part)))
    if not isinstance(found, dict):
        return []
    own = [found["fingerprint"]] if "fingerprint" in found else []
    return list(dict.fromkeys([*own, *marks(list(found.values()))]))


def _apart(found: Any, machines: Row) -> Any:
    """What was found with the fingerprints alone; the machines go to where all are kept."""
    if isinstance(found, (list, tuple)):
        return [_apart(part, machines) for part in found]
    if not isinstance(found, dict):
        return found
    if "environment" in found:
        machines[found["fingerprint"]] = found["environment"]
    return {name: _apart(part, machines) for name, part in found.items() if name not in ("environment", "machines")}
