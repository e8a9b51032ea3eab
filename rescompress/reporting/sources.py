"""What is read back: a run's report, a benchmark's file of results, or either of them as the other's kin."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rescompress.benchmarking import results
from rescompress.benchmarking.results import Results
from rescompress.errors import InputRefused
from rescompress.spec import REPORT_SCHEMA, RunReport

REMEDY = "Point to the report.json of a finished run, or run the recipe again with this release."
EITHER = "Point to a run's folder, its report.json, or what `rescompress benchmark -o` wrote."


@dataclass(frozen=True)
class Source:
    """A run or a benchmark, as it is compared with others.

    Attributes:
        name: of the run's folder, or of the file.
        results: what was measured.
        report: the run's report; None of a benchmark alone.
    """

    name: str
    results: Results
    report: RunReport | None = None


@dataclass(frozen=True)
class _Header:
    schema: str


def load(path: Path, kinds: Mapping[str, type[Any]], remedy: str = REMEDY) -> Any:
    """Read a JSON file as the type that its schema stands for; a folder stands for the report in it.

    Args:
        path: the file.
        kinds: the type by schema.
        remedy: what to do about a file that is none of them.

    Raises:
        InputRefused: the file is missing, broken, or written under another schema.
    """
    path = path / "report.json" if path.is_dir() else path
    try:
        content = path.read_bytes()
        header = TypeAdapter(_Header).validate_json(content)
        if header.schema not in kinds:
            known = " or ".join(map(repr, kinds))
            raise InputRefused(f"{path} has the schema {header.schema!r}, not {known}.", remedy)
        return TypeAdapter(kinds[header.schema]).validate_json(content)
    except OSError as error:
        raise InputRefused(f"{path} can't be read: {(error.strerror or 'refused').lower()}.", remedy) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        kind = "a report" if results.SCHEMA not in kinds else "a report or a file of results"
        raise InputRefused(f"{path} is not {kind}: {first['msg']}{place and f' at {place}'}.", remedy) from None


def source(path: Path) -> Source:
    """A run's folder or report, or a file of results.

    Raises:
        InputRefused: the file is missing, broken, or written under another schema.
    """
    found = load(path, {REPORT_SCHEMA: RunReport, results.SCHEMA: Results}, EITHER)
    if isinstance(found, RunReport):
        folder = path if path.is_dir() else path.parent
        return Source(folder.resolve().name, results.of_report(found), found)
    return Source(path.stem, found)
