"""What a run found out, for people and for programs: report.json, report.md, report.html and a model card."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rescompress.artifact import to_json, write_bytes
from rescompress.benchmarking.results import Results
from rescompress.reporting import sources
from rescompress.reporting.comparison import Comparison
from rescompress.reporting.comparison import compare as compare
from rescompress.spec import REPORT_SCHEMA, RunReport


def write(report: RunReport, folder: Path) -> tuple[Path, ...]:
    """Write report.json, report.md, report.html and model_card.md, each atomically.

    Equal reports give equal bytes in all of them.

    Args:
        report: everything that the run found out.
        folder: where the files go; made if it is not there.

    Returns:
        the paths of the files.

    Raises:
        ResourceExhausted: the disk is full.
        InputRefused: the folder can't be written.
    """
    from rescompress.reporting import html, markdown, modelcard

    contents = {
        "report.json": to_json(report),
        "report.md": markdown.render(report).encode(),
        "report.html": html.render(report).encode(),
        "model_card.md": modelcard.render(report).encode(),
    }
    for name, content in contents.items():
        write_bytes(folder / name, content)
    return tuple(folder / name for name in contents)


def read(path: Path) -> RunReport:
    """Read a report.json, or the one in a run's folder.

    Raises:
        InputRefused: the file is missing, broken, or written under another schema.
    """
    found: RunReport = sources.load(path, {REPORT_SCHEMA: RunReport})
    return found


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON schema of ``report`` (a run's report.json), ``bench`` (a file of results) or ``compare``."""
    kinds: dict[str, Any] = {"report": RunReport, "bench": Results, "compare": Comparison}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(kinds[kind]).json_schema()}
