"""What is known of each layer comes together from audit, profiler and inspection, and is drawn in one picture."""

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from rescompress.agreement import LayerAgreement
from rescompress.reporting import footnotes, layers, tables
from rescompress.reporting.drawing import NARROW, WIDE, Sheet
from rescompress.reporting.layers import FOOT, LANE, Layers
from rescompress.reporting.verdict import candidates
from rescompress.spec import PrecisionReport, RunReport

SVG = "{http://www.w3.org/2000/svg}"


def final(report: RunReport) -> Layers:
    return layers.gather(report, candidates(report)[-1])


@pytest.fixture
def found(variants: dict[str, RunReport]) -> Layers:
    return final(variants["everything"])


def columns(found: Layers, sheet: Sheet = WIDE) -> list[ElementTree.Element]:
    drawn = layers.draw(found, sheet)
    assert drawn is not None
    return [group for group in ElementTree.fromstring(drawn).iter(f"{SVG}g") if group.get("class") == "layer"]


def test_each_layer_has_its_time_bits_and_sensitivity(found: Layers, variants: dict[str, RunReport]) -> None:
    report = variants["everything"]
    assert report.benchmark
    assert report.network
    times = {one.layer: one.ms for one in report.benchmark.profiles[0].layers}
    db = {layer.layer: layer.sqnr_db for layer in report.network.layers}
    assert [row.layer for row in found.rows] == [row.layer for row in report.artifacts[-1].precision.layers]
    for row in found.rows:
        assert row.ms == times.get(row.layer)
        assert row.sqnr_db == db.get(row.layer)
        assert bool(row.within) == (row.op == "add")
    assert found.elsewhere_ms == pytest.approx(times[""])
    assert "alone in INT8" in found.sensitivity


@pytest.mark.parametrize("sheet", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", ["everything", "every_backend", "many_layers"])
def test_bars_stand_inside_their_column_and_are_as_high_as_they_should(
    name: str, sheet: Sheet, variants: dict[str, RunReport]
) -> None:
    found = final(variants[name])
    drawn = columns(found, sheet)
    assert len(drawn) == len(found.rows)
    slowest = max((row.ms for row in found.rows if row.ms is not None), default=None)
    highest = max((boxes(group)[1][3] for row, group in zip(found.rows, drawn, strict=True) if row.ms), default=0.0)
    for row, group in zip(found.rows, drawn, strict=True):
        whole, *bars = boxes(group)
        assert len(bars) == (row.ms is not None) + bool(row.precision) + (row.sqnr_db is not None)
        for x, y, width, height in bars:
            assert whole[0] <= x + 0.1
            assert x + width <= whole[0] + whole[2] + 0.1
            assert whole[1] <= y
            assert y + height <= whole[1] + whole[3]
            assert 0 < height <= LANE
        if row.ms is not None and slowest is not None and row.ms > 0.05 * slowest:
            assert bars[0][3] / highest == pytest.approx(row.ms / slowest, rel=0.03)


def boxes(group: ElementTree.Element) -> list[list[float]]:
    """The rectangles of a layer: the one that answers to the pointer, then its bars."""
    return [[float(rect.get(key) or 0) for key in ("x", "y", "width", "height")] for rect in group.iter(f"{SVG}rect")]


def test_a_sensitive_layer_has_a_high_bar(found: Layers) -> None:
    told = {row.layer: row.sqnr_db for row in found.rows if row.sqnr_db is not None}
    heights = {str(group.findtext(f"{SVG}title")).partition(":")[0]: boxes(group)[-1][3] for group in columns(found)}
    ordered = sorted(told, key=lambda layer: told[layer] or 0.0)
    assert [heights[layer] for layer in ordered] == sorted((heights[layer] for layer in ordered), reverse=True)


def test_what_nobody_measured_has_no_lane_and_is_said(variants: dict[str, RunReport]) -> None:
    bare = final(variants["realistic"])
    drawn = layers.draw(bare, WIDE)
    assert drawn is not None
    assert "time, ms" not in drawn
    assert "sensitivity" not in drawn
    assert "Nobody measured the time or the sensitivity" in footnotes.layers(bare)
    assert tables.layer_table(bare).columns == ("Layer", "Precision")
    full = final(variants["everything"])
    assert "Nobody measured" not in footnotes.layers(full)
    assert tables.layer_table(full).columns == ("Layer", "Precision", "Time", "SQNR")


def test_without_an_inspection_what_verifying_saw_is_shown(variants: dict[str, RunReport]) -> None:
    report = variants["realistic"]
    seen = (
        LayerAgreement("conv1", "conv1", 55.0, 55.0, 20.0),
        LayerAgreement("layer1.0.conv1 to layer1.0.conv2", "layer1.0.conv2", 31.0, 30.0, 20.0),
    )
    last = report.artifacts[-1]
    evidence = replace(last.verification.evidence, layers=seen)
    looked = replace(last, verification=replace(last.verification, evidence=evidence))
    found = final(replace(report, artifacts=(*report.artifacts[:-1], looked)))
    assert {row.layer: row.sqnr_db for row in found.rows if row.sqnr_db} == {"conv1": 55.0, "layer1.0.conv2": 31.0}
    assert "against eager PyTorch" in footnotes.layers(found)


def test_a_profile_names_the_layers_of_a_runtime_that_lists_none(variants: dict[str, RunReport]) -> None:
    report = variants["everything"]
    bare = replace(report.artifacts[-1], precision=PrecisionReport((), {}))
    found = final(replace(report, artifacts=(*report.artifacts[:-1], bare)))
    assert report.benchmark
    assert [row.layer for row in found.rows] == [one.layer for one in report.benchmark.profiles[0].layers if one.layer]
    assert layers.draw(replace(found, rows=()), WIDE) is None


def test_unknown_precisions_get_a_bar_too(found: Layers) -> None:
    names = ("fp32", "bf16", "int4", "mystery", "uint8", "float8_e4m3")
    rows = tuple(replace(row, precision=name) for row, name in zip(found.rows, names, strict=False))
    drawn = layers.draw(replace(found, rows=rows), WIDE)
    assert drawn is not None
    assert "MYSTERY" in drawn
    assert [layers.bits(name) for name in names] == [32, 16, 4, 32, 8, 8]
    assert [layers.family(name) for name in names] == ["fp32", "half", "int8", "other", "int8", "other"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["conv1", "layer1.0.conv1", "layer1.1.conv1", "fc"], ["conv1", "layer1", "layer1", "fc"]),
        (["net.a.x", "net.b.x", "net.c.x"], ["net.a", "net.b", "net.c"]),
        (["one"], ["one"]),
    ],
)
def test_layers_are_named_by_the_part_of_the_network_they_belong_to(names: list[str], expected: list[str]) -> None:
    assert list(layers.sections(names)) == expected


def test_names_stay_inside_and_do_not_touch(found: Layers) -> None:
    for sheet in (WIDE, NARROW):
        drawn = layers.draw(found, sheet)
        assert drawn is not None
        tree = ElementTree.fromstring(drawn)
        _, _, width, height = map(float, str(tree.get("viewBox")).split())
        ends = []
        for text in tree.iter(f"{SVG}text"):
            x, long = float(text.get("x") or 0), 6.0 * len(text.text or "")
            x -= {"end": long, "middle": long / 2}.get(text.get("text-anchor") or "", 0)
            assert x >= -1
            assert x + long <= width + 1, text.text
            if float(text.get("y") or 0) > height - FOOT + 10:
                ends.append((x, x + long))
        assert all(one[1] <= two[0] + 2 for one, two in pairwise(ends))


def test_colours_are_the_page_s(found: Layers) -> None:
    drawn = layers.draw(found, WIDE)
    assert drawn is not None
    assert not re.search(r"#[0-9a-fA-F]{3}", drawn)
