"""Each plot draws what it should, in colours of the page, and says nothing where it has nothing."""

import re
from dataclasses import replace
from itertools import combinations

import pytest

from rescompress.reporting import distributions, plots
from rescompress.reporting.placement import GLYPH, Box, place
from rescompress.reporting.plots import NARROW, WIDE, Canvas
from rescompress.spec import BenchmarkRow, LatencyRow, RunReport


def series(drawn: str | None, name: str) -> int:
    assert drawn is not None
    return len(re.findall(rf'<g id="{name}-\d+"><title>', drawn))


def timing(report: RunReport, *rows: LatencyRow) -> BenchmarkRow:
    """The report's benchmark, or one with these rows alone."""
    assert report.benchmark
    return replace(report.benchmark, latencies=rows) if rows else report.benchmark


@pytest.mark.parametrize("canvas", [WIDE, NARROW])
def test_a_point_and_a_curve_for_each_artifact(report: RunReport, canvas: Canvas) -> None:
    assert series(plots.pareto(report, canvas), f"pareto-{canvas.name}") == 5
    assert series(distributions.distribution(timing(report), canvas), f"latency-{canvas.name}") == 5


def test_nothing_to_draw_is_no_plot(variants: dict[str, RunReport]) -> None:
    assert plots.pareto(variants["without_data"], WIDE) is None
    assert plots.pareto(variants["without_benchmark"], WIDE) is None
    first = timing(variants["realistic"]).latencies[0]
    assert distributions.distribution(timing(variants["realistic"], replace(first, ecdf_ms=())), WIDE) is None


def test_colours_come_from_the_page(report: RunReport) -> None:
    for drawn in (
        plots.pareto(report, WIDE),
        distributions.distribution(timing(report), WIDE),
    ):
        assert drawn is not None
        assert "var(--ink)" in drawn
        assert not re.search(r"(fill|stroke): #[0-9a-f]{6}", drawn)


def test_a_plot_carries_no_metadata(report: RunReport) -> None:
    drawn = plots.pareto(report, WIDE)
    assert drawn is not None
    assert not re.search(r"<metadata|<\?xml|DOCTYPE|http", drawn)


def test_marker_areas_follow_file_sizes(report: RunReport) -> None:
    drawn = plots.pareto(report, WIDE)
    assert drawn is not None
    radii = []
    for number in range(5):
        group = drawn[drawn.index(f'id="pareto-wide-{number}"') :]
        found = re.search(r'd="M 0 ([\d.]+)', group)
        assert found
        radii.append(float(found[1]))
    sizes = [artifact.size_bytes for artifact in report.artifacts]
    assert [radius**2 / radii[0] ** 2 for radius in radii] == pytest.approx([size / sizes[0] for size in sizes], 1e-3)


def test_an_invalid_benchmark_has_no_front(variants: dict[str, RunReport]) -> None:
    valid, invalid = (plots.pareto(variants[name], WIDE) for name in ("realistic", "invalid_benchmark"))
    assert valid is not None
    assert invalid is not None
    assert "stroke-dasharray: 2," in valid
    assert "stroke-dasharray: 2," not in invalid


def test_a_wide_span_of_latencies_is_drawn_on_a_log_axis(report: RunReport) -> None:
    first, *rest = timing(report).latencies
    slow = replace(first, ecdf_ms=tuple(100 * value for value in first.ecdf_ms))
    drawn = distributions.distribution(timing(report, slow, *rest), WIDE)
    assert drawn is not None
    ticks = {float(text) for text in re.findall(r">(\d+)</text>", drawn)}
    assert {10, 100, 1000} <= ticks


@pytest.mark.parametrize("ecdf", [(1.0,), (0.0, 1.0), tuple(float(value) for value in range(10_000))])
def test_odd_distributions_are_drawn_and_stay_small(ecdf: tuple[float, ...], report: RunReport) -> None:
    drawn = distributions.distribution(timing(report, replace(timing(report).latencies[0], ecdf_ms=ecdf)), WIDE)
    assert drawn is not None
    assert series(drawn, "latency-wide") == 1
    assert len(drawn) < 20_000


def test_names_of_crowded_points_do_not_cover_each_other() -> None:
    points = [(100.0 + 3 * number, 100.0 + 2 * number) for number in range(5)]
    names = ["00-baseline", "01-prune", "02-distill", "03-fuse", "04-quantize"]
    corners = place(points, [5.0] * 5, names, Box(0, 0, 320, 240), size=12)
    boxes = [Box(x, y, x + 12 * GLYPH * len(name), y + 12) for (x, y), name in zip(corners, names, strict=True)]
    assert all(one.overlap(other) == 0 for one, other in combinations(boxes, 2))
    assert all(box.overlap(Box(0, 0, 320, 240)) == pytest.approx(box.area) for box in boxes)
