"""Every network on every target: docs/targets.md has the tables."""

from collections import Counter
from collections.abc import Iterator
from typing import Any


def lines(found: dict[str, Any]) -> Iterator[str]:
    """How many rows reached which rung."""
    rungs = Counter(row["rung"] if "refused" not in row else "refused" for row in found["rows"])
    networks = dict.fromkeys(row["network"] for row in found["rows"])
    said = ", ".join(f"{count} at {rung}" if rung != "refused" else f"{count} refused" for rung, count in rungs.items())
    yield f"{len(found['rows'])} rows of {', '.join(networks)}: {said}; [docs/targets.md](../docs/targets.md) has them."
    yield ""
