"""Pruning: ours beside Torch-Pruning's pruner, longer fine-tuning and one ratio everywhere; and the whole chain."""

from collections.abc import Iterator
from typing import Any

from sections import interval, table, timing

Found = dict[str, Any]


def lines(found: Found) -> Iterator[str]:
    """What each part showed."""
    parts = found["parts"]
    if "deep" in parts:
        yield from _deep(parts["deep"], parts.get("longer"), parts.get("mild"))
    if "short" in parts:
        yield from _short(parts["short"])
    if "latency" in parts:
        yield from _latency(parts["latency"])
    if "whole" in parts:
        yield from _chain(parts["whole"])


def _deep(deep: Found, longer: Found | None, mild: Found | None) -> Iterator[str]:
    """ResNet-56 cut by MACs."""
    base, timed = deep["baseline"], deep["latency"]
    yield f"ResNet-56, {base['accuracy']:.2f} % of 10,000 test images before any cut:"
    yield ""
    named = {"ours, plain": "ours", "torch-pruning, plain": "torch-pruning", "ours, distilled": "ours"}
    rows = [
        (name, f"{part['macs']:.3f}", deep["epochs"], *_accuracy(part), interval(timed[named[name]]["ratio"]))
        for name, part in deep.items()
        if name in named
    ]
    if longer:
        rows.append(
            ("ours, plain, longer", f"{deep['ours, plain']['macs']:.3f}", longer["epochs"], *_accuracy(longer), "-")
        )
    if mild:
        rows.append(("ours, distilled, a milder cut", f"{mild['macs']:.3f}", mild["epochs"], *_accuracy(mild), "-"))
    header = ("cut and recovery", "MACs", "epochs", "top-1", "change in points [95 %]", "FP32 latency [95 %]")
    yield from table(header, rows)
    yield from timing(deep["verdict"], deep["reasons"])
    ours, theirs = deep["ours, plain"], deep["torch-pruning, plain"]
    yield f"- top-1 at equal epochs, plainly fine-tuned: {_apart(ours, theirs)} beside Torch-Pruning."
    yield f"- latency of the two cuts: {_faster(timed['ours']['ratio'], timed['torch-pruning']['ratio'])}."
    if longer:
        taught = deep["ours, distilled"]
        yield f"- distilled, against fine-tuned for {longer['epochs']} epochs: {_apart(taught, longer)}."
    yield ""


def _short(part: Found) -> Iterator[str]:
    """ResNet-56 without some of its blocks."""
    yield f"ResNet-56, fine-tuned once more ({part['baseline']:.2f} %), without some of its blocks:"
    yield ""
    ratio = part["latency"]["short"]["ratio"]
    row = ("ours, whole blocks, distilled", f"{part['macs']:.3f}", part["epochs"], *_accuracy(part), interval(ratio))
    yield from table(("cut and recovery", "MACs", "epochs", "top-1", "change [95 %]", "FP32 latency [95 %]"), [row])
    yield from timing(part["verdict"], part["reasons"])
    yield ""


def _latency(part: Found) -> Iterator[str]:
    """ResNet-20 cut by measured latency."""
    yield f"ResNet-20 cut to {part['target']} of its latency:"
    yield ""
    names = [name for name in part["latency"] if name in part]
    rows = [
        (
            name,
            f"{part[name]['macs']:.3f}",
            part["epochs"],
            *_accuracy(part[name]),
            interval(part["latency"][name]["ratio"]),
        )
        for name in names
    ]
    yield from table(("widths", "MACs", "epochs", "top-1", "change [95 %]", "FP32 latency [95 %]"), rows)
    yield from timing(part["verdict"], part["reasons"])
    planned, uniform = (part[name] for name in names[:2])
    yield f"- top-1, planned widths beside one ratio for all layers that is no faster: {_apart(planned, uniform)}."
    yield ""


def _chain(part: Found) -> Iterator[str]:
    """Pruned, distilled, fused, in INT8."""
    first = part["rows"][0]
    yield f"The whole chain on ResNet-56: {part['macs']:.3f} of the MACs, distilled for {part['epochs']} epochs, INT8;"
    yield f"{part.get('trained_minutes', part['minutes']):.0f} minutes on {part['threads']} threads, all in all:"
    yield ""
    rows = [
        (
            f"{'INT8' if row is not first else 'FP32'}, {row['runtime']}",
            f"{row['accuracy']:.2f} %",
            f"{row['accuracy'] - first['accuracy']:+.2f}",
            f"{row['bytes'] / 1000:,.0f}",
            f"{first['bytes'] / row['bytes']:.1f}",
            interval(row["ratio"]),
            f"{1 / row['ratio'][0]:.2f}",
        )
        for row in part["rows"]
    ]
    yield from table(("file", "top-1", "change", "kB", "times smaller", "latency [95 %]", "times faster"), rows)
    yield from timing(part["verdict"], part["reasons"])
    before = part.get("timed_before", ())
    yield from (f"- the same files in {one}, timed before: {interval(ratio)}." for one, *ratio in before)
    yield ""


def _accuracy(part: Found) -> tuple[str, str]:
    return f"{part['accuracy']:.2f} %", interval((part["change"], part["low"], part["high"]), sign="+")


def _apart(ours: Found, other: Found) -> str:
    """By intervals against the same baseline: apart only if they don't meet, which asks more than a paired test."""
    if ours["low"] > other["high"]:
        return "first"
    return "not first" if ours["high"] < other["low"] else "tied (the intervals meet)"


def _faster(ours: list[float], other: list[float]) -> str:
    if ours[2] < other[1]:
        return "ours is faster"
    return "ours is slower" if ours[1] > other[2] else "tied"
