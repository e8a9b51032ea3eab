"""The page in a real browser: nothing wider than the screen or the paper, plots drawn and legible, light and dark."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from rescompress.spec import RunReport
from tests.reporting.browser import Browser, needs_chromium
from tests.reporting.conftest import VARIANTS

Scheme = Literal["light", "dark"]
PAPER = {"light": "rgb(246, 246, 244)", "dark": "rgb(19, 20, 22)"}
A4 = 703
"""Width of what is printed, in CSS pixels, between margins of 12 mm."""

LOOK = """(() => {
  const root = document.documentElement, box = node => node.getBoundingClientRect();
  const seen = node => box(node).width + box(node).height > 0;
  const covered = (a, b) => {
    const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    const smaller = Math.min(a.width * a.height, b.width * b.height);
    return width > 0 && height > 0 && width * height > 0.25 * smaller;
  };
  const plots = [...document.querySelectorAll("svg")].filter(seen).map(svg => {
    const {left, top, width, height, right} = box(svg);
    const names = [...svg.querySelectorAll("text")].filter(seen).map(node => [node.textContent, box(node)]);
    const clashes = names.flatMap(([one, b], i) =>
      names.slice(i + 1).filter(([, c]) => covered(b, c)).map(([other]) => `${one} / ${other}`));
    const cut = names.filter(([, b]) => b.left < left - 2 || b.right > right + 2).map(([name]) => name);
    const drawn = [...svg.querySelectorAll("path, rect, circle, use")].filter(seen).length;
    const name = svg.getAttribute("aria-label").slice(0, 40);
    return {name, left, top: top + scrollY, width, height, drawn, cut, clashes};
  });
  const inside = node => node.closest(".scroll, pre, svg") === null;
  const beyond = node => inside(node) && box(node).right > root.clientWidth + 1;
  const wide = [...document.querySelectorAll("main *")].filter(beyond);
  return {
    width: root.scrollWidth, screen: root.clientWidth, paper: getComputedStyle(document.body).backgroundColor, plots,
    wide: wide.map(node => node.outerHTML.slice(0, 90)),
    scrolled: [...document.querySelectorAll(".scroll")].filter(node => node.scrollWidth > node.clientWidth + 1).length,
    hidden: [...document.querySelectorAll("details > .scroll")].filter(node => !node.checkVisibility()).length,
  };
})()"""
OPEN = "document.querySelectorAll('details').forEach(details => { details.open = true; })"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


def check(seen: dict[str, Any], width: int, scheme: Scheme) -> None:
    assert seen["screen"] == width
    assert seen["width"] <= width
    assert seen["wide"] == []
    assert seen["paper"] == PAPER[scheme]
    for plot in seen["plots"]:
        assert plot["drawn"] > 5, plot
        assert plot["width"] > 250, plot
        assert plot["height"] > 100, plot
        assert plot["cut"] == [], plot


@needs_chromium
def test_the_whole_page_on_every_screen(
    browser: Browser, variants: dict[str, RunReport], page_of: Callable[[RunReport], str], tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image")
    page = tmp_path / "report.html"
    page.write_text(page_of(variants["everything"]), "utf-8")
    browser.open(page)
    screens: tuple[tuple[int, Scheme], ...] = ((1280, "light"), (1280, "dark"), (390, "dark"), (390, "light"))
    for width, scheme in screens:
        browser.look(width=width, scheme=scheme)
        seen = browser.ask(LOOK)
        check(seen, width, scheme)
        assert len(seen["plots"]) == 5
        assert [plot["clashes"] for plot in seen["plots"]] == [[]] * len(seen["plots"])
        with image.open(io.BytesIO(browser.shot())) as shot:
            for plot in seen["plots"]:
                corner = (plot["left"], plot["top"], plot["left"] + plot["width"], plot["top"] + plot["height"])
                assert len(shot.convert("RGB").crop(tuple(map(int, corner))).getcolors(1 << 20)) > 50, plot["name"]
    browser.ask(OPEN)
    assert browser.ask(LOOK)["width"] <= 390


@needs_chromium
def test_print_opens_what_is_folded_and_cuts_no_table(
    browser: Browser, variants: dict[str, RunReport], page_of: Callable[[RunReport], str], tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    page.write_text(page_of(variants["everything"]), "utf-8")
    browser.open(page, width=1280)
    assert browser.ask(LOOK)["hidden"] > 0
    browser.look(width=A4, media="print", scheme="dark")
    seen = browser.ask(LOOK)
    assert (seen["width"], seen["hidden"], seen["scrolled"], seen["wide"]) == (A4, 0, 0, [])
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.pdf().startswith(b"%PDF")


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_no_report_is_wider_than_its_screen(
    name: str, browser: Browser, variants: dict[str, RunReport], page_of: Callable[[RunReport], str], tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    page.write_text(page_of(variants[name]), "utf-8")
    browser.open(page)
    schemes: tuple[Scheme, ...] = ("light", "dark")
    for width in (390, 1280):
        for scheme in schemes:
            browser.look(width=width, scheme=scheme)
            check(browser.ask(LOOK), width, scheme)
    browser.ask(OPEN)
    check(browser.ask(LOOK), 1280, "dark")
    browser.look(width=A4, media="print")
    seen = browser.ask(LOOK)
    assert (seen["width"], seen["scrolled"], seen["hidden"]) == (A4, 0, 0)
