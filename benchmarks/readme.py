"""README.md of this folder, out of the scripts' own words and the results that they kept. Nobody writes numbers there.

    python benchmarks/readme.py          # a test fails where the page differs from what this writes

Each script that stands in ``ORDER`` has a section: its docstring, the machines that it ran on, and what
``sections/NAME.py`` makes of ``results/NAME.json``.
"""

import ast
import importlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import published
from sections import table

from rescompress import artifact

ROOT = Path(__file__).resolve().parent
PAGE = ROOT / "README.md"
ORDER = {
    "int8_cpu": "INT8 on a CPU, beside other tools",
    "photos": "INT8 of ImageNet's networks on all photos",
    "pruning": "Pruning, beside Torch-Pruning",
    "pipeline": "The whole chain: accuracy, latency, size",
    "calibration_cost": "What calibration costs",
    "harness_honesty": "Whether the harness can be trusted",
    "gpu": "On a GPU",
    "targets": "All targets",
    "realized": "How much of a cut becomes speed",
    "rounding": "4-bit weights",
    "pathologies": "Networks spoiled on purpose",
    "saturation": "INT8 on an x86 without VNNI",
    "digits": "The demo",
}
MISSING = {"gpu": "Not executed: no GPU was at hand."}
"""Why there are no results, where it isn't that nobody ran the script yet."""
HEAD = """\
# The published comparison

One script per claim. `readme.py` writes this page from the scripts' docstrings and from `results/*.json`; a test holds
it to that, so nobody edits a number. Ratios of latency are against the row that is named as FP32 or as the baseline:
below 1 is faster. Brackets are 95 % intervals. **First** means that the numbers tell ours apart and ahead; **tied**,
that they don't tell it apart; **not first**, that another is ahead. INDICATIVE timings were taken on a machine that
others used, or with too few launches; the reasons stand beside them.
"""


def page() -> str:
    """The whole page."""
    found = {name: published.read(name) for name in ORDER}
    parts = [HEAD, *contents(found)]
    for name, title in ORDER.items():
        if found[name] or name in MISSING or _script(name).is_file():
            parts += [f"## {title}", "", *section(name, found[name])]
    return "\n".join([*parts, *fingerprints(found)]).rstrip() + "\n"


def contents(found: dict[str, Any]) -> Iterator[str]:
    """A line per claim: where it is told, made and kept, and on which machines."""
    rows = []
    for name, title in ORDER.items():
        script = f"[{name}.py]({name}.py)" if _script(name).is_file() else f"{name}.py"
        kept = f"[{name}.json](results/{name}.json)" if found[name] else MISSING.get(name, "Not measured yet.")
        where = ", ".join(f"`{mark}`" for mark in published.marks(found[name])) or "-"
        rows.append((title, script, kept, where))
    yield from table(("claim", "script", "results", "machine"), rows)


def section(name: str, found: dict[str, Any]) -> Iterator[str]:
    """What is claimed, how it is measured, and the numbers."""
    if _script(name).is_file():
        told = ast.get_docstring(ast.parse(_script(name).read_text("utf-8"))) or ""
        yield from _blocks(told)
    if not found:
        yield MISSING.get(name, "Not measured yet.")
        yield ""
        return
    marks = published.marks(found)
    yield f"Machine: {', '.join(f'`{mark}`' for mark in marks)}." if marks else "The machine was not written down."
    yield ""
    yield from importlib.import_module(f"sections.{name}").lines(found)


def _blocks(told: str) -> Iterator[str]:
    """A docstring as Markdown: indented lines are commands, all others text."""
    for block in told.split("\n\n"):
        if block.startswith("    "):
            yield f"```sh\n{textwrap.dedent(block)}\n```"
        else:
            yield block.replace("``", "`")
        yield ""


def fingerprints(found: dict[str, Any]) -> Iterator[str]:
    """What stands behind each fingerprint."""
    yield "## Machines and releases"
    yield ""
    rows = []
    machines = {mark: where for one in found.values() for mark, where in one.get("machines", {}).items()}
    for mark, where in machines.items():
        releases = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
        memory = f"{where['memory_bytes'] / 1e9:.0f} GB"
        isa = ", ".join(where["isa"])
        rows.append(
            (f"`{mark}`", where["cpu"], where["cores"], isa, memory, where["system"], where["python"], releases)
        )
    yield from table(("fingerprint", "CPU", "cores", "ISA", "memory", "system", "Python", "releases"), rows)


def _script(name: str) -> Path:
    return ROOT / f"{name}.py"


if __name__ == "__main__":
    artifact.write_bytes(PAGE, page().encode())
