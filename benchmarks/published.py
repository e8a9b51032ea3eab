"""Where results are kept: ``results/NAME.json``, with the machine and the releases that they were measured on.

A file holds ``schema``, what its script found, and, once or beside each part that was measured by itself,
``environment`` and its ``fingerprint``: numbers of equal fingerprints may be compared. No file tells the time, a path
or a host, so that measuring the same again gives the same layout. ``readme.py`` makes a page of all of them.
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
    """Keep what a benchmark found, atomically."""
    artifact.write_bytes(FOLDER / f"{name}.json", artifact.to_json({"schema": SCHEMA, **found}))


def here() -> Row:
    """This machine and its releases, with their fingerprint; beside the numbers that were measured on it."""
    found = machine.environment()
    return {"environment": vars(found), "fingerprint": machine.fingerprint(found)}


def replaced(before: Sequence[Row], rows: Sequence[Row], *keys: str) -> list[Row]:
    """The rows of before, those that were measured again left out, and the new ones behind them."""
    again = {tuple(row[key] for key in keys) for row in rows}
    return [row for row in before if tuple(row[key] for key in keys) not in again] + list(rows)
