"""The picture of a network, and the page around it: everything is there, nothing overlaps, nothing is trusted."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rescompress.reporting import inspection as page
from rescompress.reporting import network, panels
from rescompress.reporting.drawing import NARROW, WIDE, Sheet
from rescompress.views import INSPECTION_SCHEMA, BlockView, Finding, GroupView, Inspection, LayerView, Totals

EVIL = '<script>alert("x")</script> & ]]> `$x$` 剪枝'
SVG = "{http://www.w3.org/2000/svg}"


def layer(name: str, block: str = "", macs: int = 1000, sqnr_db: float | None = 40.0) -> LayerView:
    return LayerView(
        layer=name,
        op="conv",
        output_shape=(8, 4, 4),
        params=72,
        macs=macs,
        weight_bits=32,
        weight_bytes=288,
        kernel=(3, 3),
        groups=1,
        stride=2.0,
        activation_bytes=512,
        block=block,
        group="",
        sqnr_db=sqnr_db,
    )


def network_of(blocks: int, each: int = 2) -> Inspection:
    """A made-up network with a stem, so many blocks of so many layers with a projection in every third, and a head."""
    layers, views = [layer("stem", macs=500)], []
    for number in range(blocks):
        name, projected = f"stage.{number}", number % 3 == 0
        inside = [*(f"{name}.conv{k}" for k in range(each)), *([f"{name}.downsample"] if projected else [])]
        layers += [layer(one, name, 100 * (k + 1), 30.0 + number % 20) for k, one in enumerate(inside)]
        views.append(
            BlockView(
                name=name,
                add=f"{name}.add",
                kind="basic",
                layers=tuple(inside),
                shortcut="projection" if projected else "identity",
                shortcut_layers=(inside[-1],) if projected else (),
                stride=1.0,
                output_shape=(8, 4, 4),
                macs=400,
            )
        )
    layers.append(layer("head", macs=1, sqnr_db=None))
    findings = (
        Finding("dead channels", "warning", ("stem",), "Of the 8 channels of stem, 2 all but zero.", "Prune them."),
        Finding("residual adds", "note", tuple(view.add for view in views), "Adds need Q/DQ.", "Quantize both."),
    )
    groups = (GroupView("stem", 8, 1, ("stem",), ("head",)),)
    total = Totals(72 * len(layers), sum(row.macs for row in layers), 288 * len(layers), 512 * len(layers))
    return Inspection(
        schema=INSPECTION_SCHEMA,
        model="made up",
        input_shape=(3, 8, 8),
        total=total,
        layers=tuple(layers),
        blocks=tuple(views),
        groups=groups,
        uncut=(),
        ops={"conv": len(layers), "add": blocks},
        findings=findings,
        images=None,
    )


DEPTHS = {"9 layers": (3, 2), "54 layers": (16, 3), "160 layers": (48, 3), "no block": (0, 0)}


@pytest.fixture(params=DEPTHS)
def found(request: pytest.FixtureRequest) -> Inspection:
    return network_of(*DEPTHS[request.param])


def parsed(found: Inspection, sheet: Sheet) -> ElementTree.Element:
    return ElementTree.fromstring(network.draw(found, sheet))


def boxes(tree: ElementTree.Element) -> list[tuple[float, ...]]:
    """Of each layer the rectangle that answers to the pointer."""
    frames = [group.find(f"{SVG}rect") for group in tree.iter(f"{SVG}g") if group.get("class") == "layer"]
    return [
        tuple(float(frame.get(key) or 0) for key in ("x", "y", "width", "height"))
        for frame in frames
        if frame is not None
    ]


@pytest.mark.parametrize("sheet", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_layer_has_a_box_of_its_own_inside_the_picture(found: Inspection, sheet: Sheet) -> None:
    tree = parsed(found, sheet)
    _, _, width, height = (float(end) for end in str(tree.get("viewBox")).split())
    drawn = boxes(tree)
    assert len(drawn) == len(found.layers)
    assert all(x >= 0 and x + w <= width and y >= 0 and y + h <= height for x, y, w, h in drawn)
    for number, (x, y, w, h) in enumerate(drawn):
        for x2, y2, _, _ in drawn[number + 1 :]:
            assert abs(x - x2) >= w or abs(y - y2) >= h


@pytest.mark.parametrize("sheet", [WIDE, NARROW], ids=["wide", "narrow"])
def test_texts_stay_inside_the_picture(found: Inspection, sheet: Sheet) -> None:
    for text in parsed(found, sheet).iter(f"{SVG}text"):
        left, long = float(text.get("x") or 0), 6.2 * len(text.text or "")
        left -= {"end": long, "middle": long / 2}.get(text.get("text-anchor") or "", 0)
        assert left >= -1
        assert left + long <= sheet.width + 1, text.text


def test_each_shortcut_is_drawn_and_findings_are_marked(found: Inspection) -> None:
    drawn = network.draw(found, WIDE)
    assert drawn.count("shortcut</text>") == len(found.blocks)
    assert drawn.count(">!</text>") == 2  # one in the legend
    assert "Of the 8 channels of stem" in drawn


def test_bars_are_as_long_as_macs_and_coloured_by_sensitivity() -> None:
    found = network_of(1)
    shown = parsed(found, WIDE)
    bars = {
        (group.findtext(f"{SVG}title") or "").partition(":")[0]: group.findall(f"{SVG}rect")[2]
        for group in shown.iter(f"{SVG}g")
    }
    lengths = {name: float(bar.get("width") or 0) for name, bar in bars.items()}
    assert lengths["stage.0.conv1"] == pytest.approx(2 * lengths["stage.0.conv0"], rel=0.01)
    assert lengths["head"] == 1.5  # as short as can be seen
    colours = {name: bar.get("fill") for name, bar in bars.items()}
    assert colours["stem"] == "var(--heat-1)"  # 40 dB
    assert colours["stage.0.conv0"] == "var(--heat-4)"  # 30 dB
    assert colours["head"] == "var(--fp32)"  # nobody knows


def test_colours_are_the_page_s(found: Inspection) -> None:
    assert not re.search(r"#[0-9a-fA-F]{3}", network.draw(found, WIDE))
    alone = network.standalone(found)
    wanted = set(re.findall(r"var\((--[\w-]+)\)", alone))
    assert wanted <= set(re.findall(r"(--[\w-]+):", alone))
    ElementTree.fromstring(alone)


def test_equal_inspections_give_equal_bytes(found: Inspection) -> None:
    assert page.render(found) == page.render(replace(found))


@pytest.mark.parametrize("images", [None, "8 images of toy"])
def test_colours_mean_the_same_in_every_picture(images: str | None) -> None:
    edges = panels.edges_db(replace(network_of(0), images=images))
    assert [panels.heat(db, edges) for db in (math.inf, 51, 41, 31, 19)] == (
        [0, 0, 1, 2, 4] if images else [0, 0, 1, 4, 4]
    )
    assert panels.heat(None, edges) is None


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_columns_keep_the_order_and_are_balanced(found: Inspection, most: int) -> None:
    given = panels.panels(found)
    filled = panels.columns(given, most)
    assert tuple(panel for column in filled for panel in column) == given
    assert len(filled) <= most
    heights = [sum(panel.height + panels.GAP for panel in column) for column in filled]
    tallest = max((panel.height + panels.GAP for panel in given), default=0)
    assert max(heights, default=0) <= sum(heights) / max(1, len(heights)) + tallest


def test_a_shortcut_s_layers_come_last_in_their_panel() -> None:
    second = panels.panels(network_of(2))[1]
    assert [row.layer for row in second.layers] == ["stage.0.conv0", "stage.0.conv1", "stage.0.downsample"]


def test_three_files_are_written(found: Inspection, tmp_path: Path) -> None:
    paths = page.write(found, tmp_path / "deep" / "out")
    assert [path.name for path in paths] == ["inspect.json", "inspect.html", "network.svg"]
    document = json.loads(paths[0].read_bytes())
    assert document["schema"] == INSPECTION_SCHEMA
    assert [row["layer"] for row in document["layers"]] == [row.layer for row in found.layers]
    assert document["total"] == vars(found.total)


def test_nothing_from_a_file_becomes_markup() -> None:
    found = network_of(1)
    layers = tuple(replace(row, layer=f"{EVIL}{row.layer}", group=EVIL) for row in found.layers)
    blocks = (replace(found.blocks[0], name=EVIL, layers=(EVIL,)),)
    findings = tuple(replace(f, kind=EVIL, fact=EVIL, remedy=EVIL, layers=(layers[0].layer,)) for f in found.findings)
    groups = (GroupView(EVIL, 8, 2, (EVIL,), ()),)
    evil = replace(found, model=EVIL, layers=layers, blocks=blocks, findings=findings, groups=groups, uncut=(EVIL,))
    whole = page.render(evil)
    assert "<script" not in whole
    assert "&lt;script&gt;" in whole
    ElementTree.fromstring(network.standalone(evil))


def test_findings_of_a_kind_are_told_together_and_not_without_end() -> None:
    many = tuple(Finding("dead channels", "warning", (f"conv{k}",), f"Fact {k}.", "Prune.") for k in range(100))
    odd = Finding("odd", "note", (), "One.", "Live with it.")
    first, second = page.kinds((*many, odd))
    assert (first.name, len(first.facts), first.facts[-1]) == ("dead channels", 41, "And 60 more: see inspect.json.")
    assert first.where.startswith("conv0, conv1")
    assert (second.facts, second.tone) == (("One.",), "none")
