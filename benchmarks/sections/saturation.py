"""INT8 on an x86 without VNNI."""

from collections.abc import Iterator
from typing import Any

from sections import table

WITHOUT = "without VNNI"


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A row per runtime and file."""
    yield f"Decibels of the logits of {found['images']} images against FP32; exactness is against eager fake-quant."
    yield ""
    keys = ("eager", "simulated", "here", "here, exactness", WITHOUT, f"{WITHOUT}, exactness")
    rows = [
        (row["network"], row["runtime"], row["file"], *(f"{row[key]:.1f}" if key in row else "-" for key in keys))
        for row in found["rows"]
    ]
    yield from table(("network", "runtime", "made for VNNI (plain) or without (guarded)", *keys), rows)
