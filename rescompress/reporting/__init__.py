"""What a run found out, for people and for programs: report.json, report.md and report.html."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rescompress.artifact import to_json, write_bytes
from rescompress.errors import InputRefused
from rescompress.spec import REPORT_SCHEMA, RunReport

REMEDY = "Point to the report.json of a finished run, or run the recipe again with this release."


@dataclass(frozen=True)
class _Header:
    schema: str


def write(report: RunReport, folder: Path) -> tuple[Path, ...]:
    """Write report.json, report.md and report.html, each atomically.

    Equal reports give equal bytes in all three files.

    Args:
        report: everything that the run found out.
        folder: where the files go; made if it is not there.

    Returns:
        the paths of the three files.

    Raises:
        ResourceExhausted: the disk is full.
        InputRefused: the folder can't be written.
    """
    from rescompress.reporting import html, markdown

    contents = {
        "report.json": to_json(report),
        "report.md": markdown.render(report).encode(),
        "report.html": html.render(report).encode(),
    }
    for name, content in contents.items():
        write_bytes(folder / name, content)
    return tuple(folder / name for name in contents)


def read(path: Path) -> RunReport:
    """Read a report.json, or the one in a run's folder.

    Raises:
        InputRefused: the file is missing, broken, or written under another schema.
    """
    path = path / "report.json" if path.is_dir() else path
    try:
        content = path.read_bytes()
        header = TypeAdapter(_Header).validate_json(content)
        if header.schema != REPORT_SCHEMA:
            raise InputRefused(f"{path} has the schema {header.schema!r}, not {REPORT_SCHEMA!r}.", REMEDY)
        return TypeAdapter(RunReport).validate_json(content)
    except OSError as error:
        raise InputRefused(f"{path} can't be read: {(error.strerror or 'refused').lower()}.", REMEDY) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputRefused(f"{path} is not a report: {first['msg']}{place and f' at {place}'}.", REMEDY) from None
