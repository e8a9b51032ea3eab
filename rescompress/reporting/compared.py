"""A comparison for people: compare.html, compare.md, and what stands in both of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from rescompress.artifact import write_bytes
from rescompress.reporting import compare_plot, markdown, pages, wording
from rescompress.reporting.comparison import Comparison, Lineup, Side, Standing
from rescompress.reporting.differences import Difference
from rescompress.reporting.plots import Canvas
from rescompress.reporting.tables import Cell, Kind, Table
from rescompress.reporting.verdict import Tone

TEMPLATE = "compare.html.j2"
TONES: dict[str | None, Tone] = {"VALID": "good", "INDICATIVE": "warn", "INVALID": "bad"}
COLUMNS = ("Artifact", "Run", "Accuracy", "Points", "File", "Size ratio", "MACs", "p50", "Latency ratio")
MEANINGS = (
    "Artifacts of the same stage and runtime stand together. Each is compared with the first run that has it.",
    "Brackets are 95 % intervals. Two runs were not timed side by side, so the interval of a latency ratio is made of "
    "the two medians' own, which don't know how the machine changed in between; below 1 is faster.",
    "“No difference” means that the interval holds 1, or that the ratio is within 1 % or within the larger noise floor "
    "of the two.",
    "Points are percentage points of top-1 gained. Their interval takes the images of both runs for different ones; "
    "where they were the same, the truth is nearer to the number than it says.",
    "Timings that are INVALID are struck out, and there is no ratio with them.",
)


@dataclass(frozen=True)
class Drawing:
    """The plot twice, for a wide screen and for a phone; neither where nothing was timed."""

    wide: Markup | None
    narrow: Markup | None


def write(found: Comparison, folder: Path) -> tuple[Path, ...]:
    """Write compare.html and compare.md, each atomically; equal comparisons give equal bytes.

    Raises:
        ResourceExhausted: the disk is full.
        InputRefused: the folder can't be written.
    """
    contents = {"compare.html": render(found), "compare.md": render_markdown(found)}
    for name, content in contents.items():
        write_bytes(folder / name, content.encode())
    return tuple(folder / name for name in contents)


def render(found: Comparison) -> str:
    """The whole page; it needs no script, no font and no network."""
    wide, narrow = (_drawn(found, canvas) for canvas in (compare_plot.WIDE, compare_plot.NARROW))
    return pages.fill(
        TEMPLATE,
        found=found,
        under=" · ".join(dict.fromkeys(map(_origin, found.sides))),
        headline=headline(found),
        judged=tuple((side, TONES.get(side.verdict, "none"), remarks(side)) for side in found.sides),
        artifacts=artifact_table(found),
        environment=difference_table(found, found.environment),
        recipe=difference_table(found, found.recipe),
        medians=Drawing(wide, narrow),
        meanings=MEANINGS,
    )


def render_markdown(found: Comparison) -> str:
    """The same for a pull request, without the plot."""
    heading = " · ".join(markdown.escaped(side.name) for side in found.sides)
    parts = [f"## {heading}", f"**{markdown.escaped(headline(found))}**"]
    parts.append("\n".join(_judged(side) for side in found.sides))
    parts.append(markdown.grid(artifact_table(found)))
    parts += [
        f"{title}\n\n{markdown.grid(difference_table(found, rows))}"
        for title, rows in (("What else differs:", found.environment), ("Recipes:", found.recipe))
        if rows
    ]
    parts.append("\n".join(f"- {sentence}" for sentence in MEANINGS))
    return "\n\n".join(parts) + "\n"


def headline(found: Comparison) -> str:
    """The last artifact that the first and the last side share, in one sentence."""
    shared = [one for one in found.lineups if one.standings[0] and one.standings[-1]]
    if not shared:
        return "No artifact is in both the first and the last."
    lineup = shared[-1]
    first, last = lineup.standings[0], lineup.standings[-1]
    assert first is not None, "only what both have is shared"
    assert last is not None, "only what both have is shared"
    size = "the same size" if last.size_ratio == 1 else f"{wording.real(last.size_ratio or 0)}{wording.TIMES} the size"
    said = [size, _latency(last)]
    if first.accuracy and last.accuracy:
        said.append(f"accuracy {wording.percent(first.accuracy)} → {wording.percent(last.accuracy)}")
    return (
        f"{lineup.label} in {lineup.backend}, {found.sides[-1].name} against {found.sides[0].name}: {', '.join(said)}."
    )


def remarks(side: Side) -> tuple[str, ...]:
    """What a person should know of one side, a sentence each."""
    elsewhere = (f"Another machine than the first: {side.elsewhere}.",) if side.elsewhere else ()
    return (f"Timed with {side.settings}." if side.settings else "Nothing was timed.", *elsewhere, *side.reasons)


def artifact_table(found: Comparison) -> Table:
    """A row for each artifact in each side that has it."""
    rows = [
        _row(lineup, side, standing)
        for lineup in found.lineups
        for side, standing in zip(found.sides, lineup.standings, strict=True)
        if standing is not None
    ]
    return Table(COLUMNS, tuple(rows))


def difference_table(found: Comparison, rows: Sequence[Difference]) -> Table:
    """A row for each fact, a column for each side."""
    filled = tuple((Cell(row.name), *(Cell(value, kind="prose") for value in row.values)) for row in rows)
    return Table(("", *(side.name for side in found.sides)), filled)


def _origin(side: Side) -> str:
    known = ", ".join(filter(None, [side.model, side.data]))
    return f"{side.title} ({known})" if known else side.title


def _drawn(found: Comparison, canvas: Canvas) -> Markup | None:
    # matplotlib escapes every text that it writes, so its SVG goes into the page as it is
    drawn = compare_plot.medians(found, canvas)
    return None if drawn is None else Markup(drawn)  # noqa: S704


def _judged(side: Side) -> str:
    tone = markdown.MARKS[TONES.get(side.verdict, "none")]
    said = " ".join(map(markdown.escaped, remarks(side)))
    return f"- {tone} **{markdown.escaped(side.name)}: {side.verdict or 'not timed'}.** {said}"


def _row(lineup: Lineup, side: Side, one: Standing) -> tuple[Cell, ...]:
    void: Kind = "void" if side.verdict == "INVALID" else ""
    p50 = one.p50_ms
    middle = wording.interval(p50.value, p50.low, p50.high) if p50 else ""
    points = one.points
    gained = Cell(f"{points.value:+.2f}", f"[{points.low:+.2f}, {points.high:+.2f}]") if points else Cell("")
    return (
        Cell(lineup.label, lineup.backend),
        Cell(side.name),
        _accuracy(one),
        gained,
        Cell(wording.size(one.size_bytes)),
        Cell(wording.real(one.size_ratio) if one.size_ratio is not None else ""),
        Cell(wording.count(one.macs)) if one.macs is not None else Cell("not told", kind="missing"),
        Cell(f"{wording.real(p50.value)} ms", middle, void) if p50 else Cell("not timed", kind="missing"),
        _ratio(one),
    )


def _accuracy(one: Standing) -> Cell:
    if not one.accuracy:
        return Cell(wording.MISSING, kind="missing")
    return Cell(wording.percent(one.accuracy), wording.percent_interval(one.accuracy))


def _ratio(one: Standing) -> Cell:
    if one.ratio is None:
        return Cell(one.remark, kind="missing" if one.remark else "")
    doubts = ["" if one.different else "no difference", one.remark]
    ends = wording.interval(one.ratio.value, one.ratio.low, one.ratio.high)
    return Cell(wording.real(one.ratio.value), " ".join(filter(None, [ends, *doubts])))


def _latency(one: Standing) -> str:
    if one.ratio is None:
        return f"latency not comparable ({one.remark})" if one.remark else "latency not comparable"
    doubt = f" ({one.remark})" if one.remark else ""
    if not one.different:
        return f"no measurable difference in latency{doubt}"
    x = one.ratio
    word, (value, low, high) = (
        ("slower", (x.value, x.low, x.high))
        if x.value > 1
        else (
            "faster",
            (1 / x.value, 1 / x.high, 1 / x.low),
        )
    )
    digits = 3 if value < 2 else 2
    return f"{wording.real(value, digits)}{wording.TIMES} {word} {wording.interval(value, low, high, digits)}{doubt}"
