"""From a matplotlib figure to SVG that sits inside a page: no metadata, colours from the page's own palette."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

# matplotlib wants a colour, the page a variable that follows light and dark: each of these stands for a variable.
COLOURS = {
    "ink": "#0a0b01",
    "muted": "#0a0b02",
    "hairline": "#0a0b03",
    **{f"series-{number}": f"#0a0c{number:02x}" for number in range(8)},
    "int8": "#0a0d01",
    "half": "#0a0d02",
    "fp32": "#0a0d03",
    "other": "#0a0d04",
}


def figure(width: int, height: int) -> Any:
    """An empty figure, measured in CSS pixels, without the state that pyplot keeps."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained", frameon=False)


def style(size: float = 12) -> dict[str, Any]:
    """Settings of matplotlib for every plot: small ticks, no frame, text that stays text."""
    return {
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": size,
        "text.color": COLOURS["ink"],
        "axes.labelcolor": COLOURS["muted"],
        "axes.edgecolor": COLOURS["hairline"],
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": COLOURS["hairline"],
        "grid.linewidth": 0.8,
        "xtick.color": COLOURS["hairline"],
        "ytick.color": COLOURS["hairline"],
        "xtick.labelcolor": COLOURS["muted"],
        "ytick.labelcolor": COLOURS["muted"],
        "legend.frameon": False,
    }


def inline(drawn: Any, name: str, label: str, titles: Mapping[str, str]) -> str:
    """Give the figure as an ``<svg>`` element; equal figures give equal bytes.

    Args:
        drawn: a matplotlib figure that was made under :func:`style`.
        name: salt of the generated ids, unique in the page.
        label: what a screen reader says of the whole figure.
        titles: what a pointer reads over the group with this id.
    """
    import matplotlib

    stream = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}), quiet():
        drawn.savefig(stream, format="svg", metadata=no_metadata)
    text = stream.getvalue()
    return _recoloured(_titled(_opened(text[text.index("<svg") :], name, label), titles)).strip()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence complaints about glyphs that matplotlib's font lacks: the browser draws the text, in its own fonts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _opened(text: str, name: str, label: str) -> str:
    """Replace the opening tag, whose size is fixed, and drop ids that nothing points to."""
    box = re.search(r'viewBox="([^"]+)"', text)
    body = text[text.index(">") + 1 :].replace("xlink:href", "href")
    wanted = set(re.findall(r"#([\w-]+)[\")]", body))
    body = re.sub(r' id="([^"]+)"', lambda hit: hit[0] if hit[1] in wanted or hit[1].startswith(name) else "", body)
    size = f'viewBox="{box[1]}"' if box else ""
    return f'<svg {size} role="img" aria-label={quoteattr(label)}>{body}'


def _titled(text: str, titles: Mapping[str, str]) -> str:
    for identity, title in titles.items():
        text = text.replace(f'<g id="{identity}">', f'<g id="{identity}"><title>{escape(title)}</title>', 1)
    return text


def _recoloured(text: str) -> str:
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.3f}", text)
    return re.sub(r"\n\s*", "\n", text)
