"""The report as one HTML page that needs nothing else: no script, no font, no network."""

from dataclasses import dataclass

from markupsafe import Markup

from rescompress.reporting import footnotes, pages, plots, tables, verdict
from rescompress.spec import ArtifactRow, RunReport

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Drawing:
    """A plot twice, for a wide screen and for a phone; neither where there was nothing to draw."""

    wide: Markup | None
    narrow: Markup | None


@dataclass(frozen=True)
class Layers:
    """What precision the layers of one final artifact have: as a plot and as a table."""

    name: str
    drawing: Drawing
    table: tables.Table


def render(report: RunReport) -> str:
    """Give the whole page; equal reports give equal pages."""
    return pages.fill(
        TEMPLATE,
        report=report,
        overall=verdict.overall(report),
        phrases=verdict.phrases(report),
        judgements=verdict.judgements(report),
        stages=tables.stage_table(report),
        notes=tables.notes(report),
        verified=tables.verification_table(report),
        files=tables.file_table(report),
        machine=footnotes.machine(report.environment),
        meanings=footnotes.meanings(report),
        limits=footnotes.limits(report),
        pareto=Drawing(_markup(plots.pareto(report, plots.WIDE)), _markup(plots.pareto(report, plots.NARROW))),
        latency=Drawing(
            _markup(plots.distribution(report, plots.WIDE)), _markup(plots.distribution(report, plots.NARROW))
        ),
        layers=tuple(_layers(number, row.name, row.artifact) for number, row in enumerate(_finals(report))),
    )


def _markup(drawn: str | None) -> Markup | None:
    # matplotlib escapes every text that it writes, so its SVG goes into the page as it is
    return None if drawn is None else Markup(drawn)  # noqa: S704


def _finals(report: RunReport) -> list[verdict.Candidate]:
    """The artifacts of the last exported stage, one per backend."""
    rows = verdict.candidates(report)
    return [row for row in rows if row.artifact.label == rows[-1].artifact.label]


def _layers(number: int, name: str, artifact: ArtifactRow) -> Layers:
    wide, narrow = (
        _markup(plots.bit_widths(artifact, canvas, str(number))) for canvas in (plots.WIDE_STRIP, plots.NARROW_STRIP)
    )
    return Layers(name, Drawing(wide, narrow), tables.precision_table(artifact))
