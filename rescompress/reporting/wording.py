"""How numbers are written for people: units, significant digits, and words where there is no number."""

import math
from collections.abc import Mapping
from typing import Any

from rescompress.metrics import wilson
from rescompress.spec import Precision, Proportion, Rung

MISSING = "not measured"
INTEGERS: dict[Precision, str] = {
    "fp32": "none",
    "int8": "INT8",
    "w4a8": "INT8, weights INT4",
    "dynamic": "INT8, ranges at run time",
    "w8": "weights, INT8",
    "w4": "weights, INT4",
}
"""What of a model is integers, in words."""
RUNGS: dict[Rung, str] = {
    "L0": "written",
    "L1": "contract-tested, not executed",
    "L2": "executed and verified",
    "L3": "timed here",
}
"""How far an artifact is proven, in words."""
TIMES = "\N{MULTIPLICATION SIGN}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(proportion: Proportion | None) -> str:
    """Such as ``97.8 %``; with two decimals where the sample is large enough to mean them."""
    if proportion is None or not proportion.total:
        return MISSING
    return f"{proportion.percent:.{_percent_decimals(proportion)}f} %"


def percent_interval(proportion: Proportion | None) -> str:
    """The Wilson 95 % interval, such as ``[96.0, 98.8]``; empty where nothing was measured."""
    if proportion is None or not proportion.total:
        return ""
    low, high = wilson(proportion)
    decimals = _percent_decimals(proportion)
    return f"[{low:.{decimals}f}, {high:.{decimals}f}]"


def share(proportion: Proportion, nothing: str = MISSING) -> str:
    """Such as ``20 of 21``."""
    return f"{proportion.correct} of {proportion.total}" if proportion.total else nothing


def real(value: float, digits: int = 3) -> str:
    """A number with so many significant digits; powers of ten below 0.001 and from 100,000 on."""
    if not math.isfinite(value):
        return _not_finite(value)
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}{TIMES}10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return f"{value:.{_decimals(value, digits)}f}"


def interval(centre: float, low: float, high: float, digits: int = 3) -> str:
    """Both ends with as many decimals as :func:`real` gives the centre, such as ``[2.71, 3.09]``."""
    if not all(map(math.isfinite, (centre, low, high))):
        return f"[{_not_finite(low, digits)}, {_not_finite(high, digits)}]"
    decimals = _decimals(centre, digits)
    return f"[{low:.{decimals}f}, {high:.{decimals}f}]"


def decibels(value: float) -> str:
    """Such as ``38.2 dB``; an infinite ratio means that nothing was lost."""
    if value == math.inf:
        return "∞ (exact)"
    return f"{value:.1f} dB" if math.isfinite(value) else _not_finite(value)


def count(value: int) -> str:
    """Such as ``11.2 M``."""
    return _scaled(value, ("", " k", " M", " G", " T"))


def size(size_bytes: int) -> str:
    """Such as ``4.47 MB``, in powers of 1000."""
    return _scaled(size_bytes, (" B", " kB", " MB", " GB", " TB"))


def knob(value: Any) -> str:
    """A knob's value as the recipe would have it, without quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else _not_finite(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {knob(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(knob, value)) + "]"
    return str(value)


def _percent_decimals(proportion: Proportion) -> int:
    return 2 if proportion.total >= 5000 else 1


def _not_finite(value: float, digits: int = 3) -> str:
    if math.isfinite(value):
        return real(value, digits)
    return "not a number" if math.isnan(value) else "∞" if value > 0 else "-∞"


def _decimals(value: float, digits: int) -> int:
    # the exponent after rounding: 9.996 with three digits is 10.0
    return max(0, digits - 1 - int(f"{value:.{digits - 1}e}".split("e")[1]))


def _scaled(value: int, units: tuple[str, ...]) -> str:
    scaled, unit = float(value), units[0]
    for unit in units:
        if scaled < 999.5 or unit == units[-1]:
            break
        scaled /= 1000
    return f"{value}{unit}" if unit == units[0] else f"{scaled:.{_decimals(scaled, 3)}f}{unit}"
