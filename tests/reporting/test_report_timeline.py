"""Blocks over time: every block is in its lane at its height, launches stand apart, bursts are marked."""

import re
from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescompress.reporting import drawing, timeline
from rescompress.reporting.drawing import NARROW, WIDE, Sheet
from rescompress.spec import BenchmarkRow, RunReport

SVG = "{http://www.w3.org/2000/svg}"
Blocks = Sequence[tuple[float, float]]


@pytest.fixture
def timing(variants: dict[str, RunReport]) -> BenchmarkRow:
    found = variants["everything"].benchmark
    assert found
    return found


def alone(timing: BenchmarkRow, blocks: Blocks, launches: int) -> BenchmarkRow:
    """One candidate with a median of 10 ms and these blocks."""
    row = replace(timing.latencies[0], p50_ms=10.0, blocks=tuple(blocks))
    return replace(timing, latencies=(row,), launches=launches)


def parsed(timing: BenchmarkRow, sheet: Sheet = WIDE) -> ElementTree.Element:
    drawn = timeline.draw(timing, sheet)
    assert drawn is not None
    return ElementTree.fromstring(drawn)


def traces(tree: ElementTree.Element) -> list[list[list[tuple[float, float]]]]:
    """Of each lane the points of each launch."""
    paths = [str(path.get("d")) for path in tree.iter(f"{SVG}path") if path.get("class") == "trace"]
    return [
        [[(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", part)] for part in path.split("M")[1:]]
        for path in paths
    ]


@pytest.mark.parametrize("sheet", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_block_of_every_launch_is_drawn_inside_its_lane(timing: BenchmarkRow, sheet: Sheet) -> None:
    tree = parsed(timing, sheet)
    lanes = traces(tree)
    assert [[len(launch) for launch in lane] for lane in lanes] == [[30] * 5] * 5
    _, _, width, height = map(float, str(tree.get("viewBox")).split())
    before = 0.0
    for lane in lanes:
        ys = [y for launch in lane for _, y in launch]
        assert before < min(ys) <= max(ys) < min(height, min(ys) + timeline.LANE + 0.2)
        assert all(0 < x < width for launch in lane for x, _ in launch)
        before = max(ys)
    lines = [path for path in tree.iter(f"{SVG}path") if path.get("class") == "launch"]
    assert len(lines) == 4
    for number, line in enumerate(lines):
        (x,) = re.findall(r"M([\d.]+)", str(line.get("d")))
        assert max(lane[number][-1][0] for lane in lanes) < float(x) < min(lane[number + 1][0][0] for lane in lanes)


def test_a_slower_block_is_higher_in_proportion(timing: BenchmarkRow) -> None:
    tree = parsed(alone(timing, [(1.0, 10.0), (2.0, 10.4), (3.0, 9.6), (4.0, 10.2)], 1))
    (((_, level), (_, slow), (_, fast), (_, half)),) = traces(tree)[0:1][0]
    assert level - slow == pytest.approx(fast - level, abs=0.11)
    assert level - half == pytest.approx((level - slow) / 2, abs=0.11)
    assert slow < level < fast


def test_what_lies_beyond_the_edge_is_marked_and_flattens_nothing(timing: BenchmarkRow) -> None:
    blocks = [(float(second), 10.0 + 0.1 * (second % 2)) for second in range(200)]
    blocks[77] = (77.0, 31.0)
    tree = parsed(alone(timing, blocks, 1))
    marks = list(tree.iter(f"{SVG}circle"))
    assert len(marks) == 1
    ((points,),) = traces(tree)
    assert abs(points[0][1] - points[1][1]) > 5  # 1 % is still seen
    assert float(marks[0].get("cx") or 0) == pytest.approx(points[77][0])


def test_one_block_a_launch_is_a_dot(timing: BenchmarkRow) -> None:
    tree = parsed(alone(timing, [(1.0, 10.0), (9.0, 10.1)], 2))
    assert [[len(launch) for launch in lane] for lane in traces(tree)] == [[1, 1]]
    assert 'h0"' in ElementTree.tostring(tree, "unicode").replace("h0M", 'h0"')


def test_blocks_that_cannot_be_shared_out_are_one_line(timing: BenchmarkRow) -> None:
    tree = parsed(alone(timing, [(float(second), 10.0) for second in range(7)], 2))
    assert [[len(launch) for launch in lane] for lane in traces(tree)] == [[7]]
    assert not [path for path in tree.iter(f"{SVG}path") if path.get("class") == "launch"]


def test_without_blocks_there_is_no_plot(variants: dict[str, RunReport]) -> None:
    timing = variants["realistic"].benchmark
    assert timing
    assert timeline.draw(timing, WIDE) is None


@given(st.floats(1e-9, 1e9), st.integers(1, 12))
def test_marks_on_an_axis_are_round_few_and_reach_the_end(end: float, most: int) -> None:
    found = drawing.ticks(end, most)
    assert found[0] == 0
    assert found[-1] <= end * (1 + 1e-6)
    assert len(found) <= most + 1
    assert drawing.round_up(end) >= end * (1 - 1e-6)
    assert drawing.round_up(end) <= 2.5 * end
