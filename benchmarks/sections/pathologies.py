"""Spoiled networks: points of top-1 that INT8 loses, plain and ours."""

from collections.abc import Iterator
from typing import Any

from sections import table


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A row per way of spoiling."""
    yield f"{found['images']:,} test images, {found['calibration']} calibrate; changes are in points of top-1."
    yield ""
    rows = [
        (name, f"{part['fp32']:.2f} %", *(f"{part[way] - part['fp32']:+.2f}" for way in ("plain", "ours")))
        for name, part in found["parts"].items()
    ]
    yield from table(("network", "FP32", "plain min-max", "ours"), rows)
