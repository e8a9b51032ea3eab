"""The page of a comparison in a real browser: nothing wider than the screen, the plot drawn, in light and in dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from rescompress.artifact import to_json, write_bytes
from rescompress.reporting import compared
from rescompress.reporting.comparison import compare
from rescompress.spec import RunReport
from tests.reporting.browser import Browser, needs_chromium

PAIRS = {
    "alike": ("realistic", "realistic"),
    "one invalid": ("realistic", "invalid_benchmark"),
    "awkward names": ("evil_names", "two_backends", "many_layers"),
    "nothing in common": ("nothing_exported", "without_benchmark"),
}
INK = """[...document.querySelectorAll("svg")].filter(svg => svg.getBoundingClientRect().width > 0)
.map(svg => svg.querySelectorAll("g[id^=medians]").length)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("pair", PAIRS)
def test_the_page_fits_every_screen(
    pair: str, browser: Browser, variants: dict[str, RunReport], tmp_path: Path
) -> None:
    for place, name in enumerate(PAIRS[pair]):
        write_bytes(tmp_path / f"{name}-{place}" / "report.json", to_json(variants[name]))
    found = compare([tmp_path / f"{name}-{place}" for place, name in enumerate(PAIRS[pair])])
    page, _ = compared.write(found, tmp_path)
    dots = sum(
        one is not None and one.p50_ms is not None and side.verdict != "INVALID"
        for lineup in found.lineups
        for side, one in zip(found.sides, lineup.standings, strict=True)
    )
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for width in (390, 1280):
        for scheme in schemes:
            browser.open(page, width=width, scheme=scheme)
            assert browser.ask("document.documentElement.scrollWidth") <= width
            paper = browser.ask("getComputedStyle(document.body).backgroundColor")
            assert paper == ("rgb(19, 20, 22)" if scheme == "dark" else "rgb(246, 246, 244)")
            assert browser.ask(INK) == ([dots] if dots else [])
    assert len(browser.shot()) > 10_000
    browser.open(page, media="print")
    assert browser.pdf().startswith(b"%PDF")
