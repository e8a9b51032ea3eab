"""The page in a real browser: nothing wider than the screen, at any width, in light and in dark."""

import html as escaping
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rescompress.spec import RunReport

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# A browser window can't be as narrow as a phone, a frame can; the frame's page has the outer page's origin.
OUTER = """<!doctype html><body><iframe srcdoc="{page}" style="width:{width}px;height:3000px;border:0"></iframe>
<p id="found"></p><script>
window.onload = () => {{
  const inner = document.querySelector("iframe").contentDocument, root = inner.documentElement;
  inner.querySelectorAll("details").forEach((details) => {{ details.open = true; }});
  const shown = [...inner.querySelectorAll("svg")].filter((svg) => svg.getBoundingClientRect().width > 0).length;
  const paper = getComputedStyle(inner.body).backgroundColor;
  document.getElementById("found").textContent = [root.scrollWidth, root.clientWidth, shown, paper].join(";");
}};
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="No chromium is installed, so no page can be laid out.")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_never_wider_than_the_screen(
    width: int, scheme: str, any_report: RunReport, page_of: Callable[[RunReport], str], tmp_path: Path
) -> None:
    outer = tmp_path / "outer.html"
    outer.write_text(OUTER.format(page=escaping.escape(page_of(any_report)), width=width))
    arguments = (
        f"{CHROMIUM} --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        f"--disable-component-update --disable-sync --hide-scrollbars --user-data-dir={tmp_path / 'profile'} "
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1} --window-size=1400,3100 --dump-dom"
    )
    done = subprocess.run([*arguments.split(), outer.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<p id="found">([^<]+)</p>', done.stdout)
    assert found, done.stderr
    content_width, screen_width, drawings, paper = found[1].split(";")
    assert int(screen_width) == width
    assert int(content_width) <= width
    assert int(drawings) <= 4  # of each plot, one of the two sizes is shown
    assert paper == ("rgb(19, 20, 22)" if scheme == "dark" else "rgb(246, 246, 244)")
