"""The report as one HTML page that needs nothing else: no script, no font, no network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from rescompress.reporting import distributions, drawing, footnotes, network, pages, plots, tables, timeline, verdict
from rescompress.reporting import layers as layer_bars
from rescompress.reporting import timings as timing_tables
from rescompress.reporting.plots import Canvas
from rescompress.spec import BenchmarkRow, RunReport

TEMPLATE = "report.html.j2"
LONG = 24
"""Layers from which the network's picture is folded away on a phone."""

SHEETS = (drawing.WIDE, drawing.NARROW)
T = TypeVar("T")


@dataclass(frozen=True)
class Drawing:
    """A plot twice, for a wide screen and for a phone; neither where there was nothing to draw."""

    wide: Markup | None = None
    narrow: Markup | None = None


@dataclass(frozen=True)
class Final:
    """What is known of the layers of one final artifact: as a picture, in a sentence, and as a table."""

    name: str
    drawing: Drawing
    caption: str
    table: tables.Table


@dataclass(frozen=True)
class Timed:
    """What a benchmark fills of the page.

    Attributes:
        facts: how it was timed.
        table: tails, cold starts, memory and energy; None where nothing of it was measured.
        curves: how latencies are distributed.
        blocks: all blocks over time.
        meters: what share of its roof each artifact reaches.
        peaks: what the machine can do, in a sentence.
        conditions: what may disturb or explain the numbers.
    """

    facts: tuple[tuple[str, str], ...]
    table: tables.Table | None
    curves: Drawing
    blocks: Drawing
    meters: tuple[timing_tables.Meter, ...]
    peaks: str
    conditions: tuple[tuple[str, str], ...]


def render(report: RunReport) -> str:
    """Give the whole page; equal reports give equal pages."""
    several = len({row.backend for row in report.artifacts}) > 1
    canvases = (plots.FULL, plots.TALL) if several else (plots.WIDE, plots.NARROW)
    return pages.fill(
        TEMPLATE,
        report=report,
        several=several,
        overall=verdict.overall(report),
        phrases=verdict.phrases(report),
        judgements=verdict.judgements(report),
        results=tables.result_table(report),
        stages=tables.stage_table(report),
        notes=tables.notes(report),
        verified=tables.verification_table(report),
        files=tables.file_table(report),
        machine=footnotes.machine(report.environment),
        meanings=footnotes.meanings(report),
        limits=footnotes.limits(report),
        pareto=_twice(lambda canvas: plots.pareto(report, canvas), canvases),
        timed=_timed(report.benchmark, canvases) if report.benchmark else None,
        finals=tuple(map(_final, _finals(report))),
        network=_network(report),
        long=report.network is not None and len(report.network.layers) > LONG,
    )


def _twice(draw: Callable[[T], str | None], sizes: tuple[T, T]) -> Drawing:
    """A plot in both sizes."""
    # Every text in a plot is escaped where it is drawn, so its SVG goes into the page as it is.
    wide, narrow = (None if drawn is None else Markup(drawn) for drawn in map(draw, sizes))  # noqa: S704
    return Drawing(wide, narrow)


def _timed(timing: BenchmarkRow, canvases: tuple[Canvas, Canvas]) -> Timed:
    return Timed(
        facts=timing_tables.facts(timing),
        table=timing_tables.latency_table(timing),
        curves=_twice(lambda canvas: distributions.distribution(timing, canvas), canvases),
        blocks=_twice(lambda sheet: timeline.draw(timing, sheet), SHEETS),
        meters=timing_tables.meters(timing),
        peaks=timing_tables.peaks(timing),
        conditions=tuple(timing.conditions.items()),
    )


def _finals(report: RunReport) -> list[layer_bars.Layers]:
    """The layers of each backend's last artifact."""
    last = {row.artifact.backend: row for row in verdict.candidates(report)}
    return [layer_bars.gather(report, row) for row in last.values()]


def _final(found: layer_bars.Layers) -> Final:
    drawn = _twice(lambda sheet: layer_bars.draw(found, sheet), SHEETS)
    return Final(found.name, drawn, footnotes.layers(found), tables.layer_table(found))


def _network(report: RunReport) -> Drawing:
    found = report.network
    return _twice(lambda sheet: network.draw(found, sheet), SHEETS) if found else Drawing()
