"""Writes what was measured as a table, and says of every row and column whether ours is first, tied or not first.

Latency is told apart as `rescompress benchmark` does it: the ratio's interval leaves out 1, and the ratio is off by
more than 1 % and more than two copies of FP32 were. Top-1 is told apart by McNemar's exact test, corrected for the
number of peers. Size has no error. CPU seconds and memory were measured once, so less than 5 % is a tie. Ours starts
from the checkpoint, so the CPU seconds of exporting FP32 are added to each peer's where they were measured.
"""

from collections.abc import Callable, Iterator
from typing import Any

OURS = {"onnxruntime": "ours", "openvino": "ours, for OpenVINO"}
"""Our row in each runtime: made by its own scheme."""
RUNTIMES = tuple(OURS)
SIGNIFICANT, SMALLEST, ONCE = 0.05, 0.01, 0.05
WORDS = {1: "first", 0: "tied", -1: "not first", None: "-"}
COLUMNS = (
    "artifact", "runtime", "latency of FP32's [95 %]", "ours/this [95 %]", "top-1", "change [95 %]", "p", "agrees",
    "SQNR", "INT8 nodes", "kB", "tool s", "CPU s", "peak MB", "ours: latency, top-1, size, CPU s, memory",
)  # fmt: skip
Entry = dict[str, Any]
Verdict = int | None
"""1 where ours is better, 0 where nothing tells them apart, -1 where it is worse, None where it wasn't measured."""


def table(name: str, entry: Entry) -> str:
    """One network as a Markdown table, a sentence on the timing, and one for each runtime and column."""
    header = [f"### {name}: {entry['calibrated']} images calibrate, {entry['judged']:,} judge", ""]
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(entry, *key)) + " |" for key in keys(entry)]
    timed = entry.get("latency")
    lines += ["", *([_timing(timed)] if timed else ["Not timed."])]
    lines += [f"Without {peer}: {why}." for peer, why in entry["missing"].items()]
    return "\n".join([*header, *lines, "", *(f"- {sentence}" for sentence in standing(entry))])


def _timing(timed: Entry) -> str:
    said = f"Timing: {timed['verdict']}, {timed['launches']} launches, noise floor {timed['noise_floor']:.1%}."
    return " ".join([said, *timed["reasons"]])


def keys(entry: Entry) -> list[tuple[str, str]]:
    """Artifact and runtime of each row, FP32 first, then ours."""
    found = [(row["artifact"], row["runtime"]) for part in ("accuracy", "latency") for row in part_of(entry, part)]
    order = {"fp32": 0, **dict.fromkeys(OURS.values(), 1)}
    return sorted(dict.fromkeys(found), key=lambda key: (RUNTIMES.index(key[1]), order.get(key[0], 2)))


def part_of(entry: Entry, part: str) -> list[Entry]:
    """The rows of one part, none if it wasn't run."""
    rows: list[Entry] = entry.get(part, {}).get("rows", [])
    return rows


def row_of(entry: Entry, part: str, artifact: str, runtime: str) -> Entry:
    """One row of one part, empty if there is none."""
    found = [row for row in part_of(entry, part) if (row["artifact"], row["runtime"]) == (artifact, runtime)]
    return found[0] if found else {}


def cells(entry: Entry, artifact: str, runtime: str) -> list[str]:
    """The cells of one row; a dash where nothing was measured."""
    judged, timed = row_of(entry, "accuracy", artifact, runtime), row_of(entry, "latency", artifact, runtime)
    made = entry["artifacts"].get(artifact, {})
    ratio, ours, fp32 = timed.get("ratio"), timed.get("ours"), artifact == "fp32"
    return [
        artifact,
        runtime,
        "{:.3f} [{:.3f}, {:.3f}]".format(*ratio) if ratio else "-",
        "{:.3f} [{:.3f}, {:.3f}]".format(*ours) if ours else "-",
        f"{judged['accuracy']:.2f} %" if judged else "-",
        f"{-judged['drop']:+.2f} [{-judged['high']:+.2f}, {-judged['low']:+.2f}]" if judged and not fp32 else "-",
        f"{judged['p']:.3f}" if "p" in judged else "-",
        f"{judged['agreement']:.2f} %" if judged and not fp32 else "-",
        f"{judged['sqnr_db']:.1f} dB" if judged.get("sqnr_db") else "-",
        f"{timed['int8']}/{timed['computing']}" if timed else "-",
        f"{made['bytes'] / 1000:,.0f}" if made else "-",
        f"{made['seconds']:.1f}" if "seconds" in made else "-",
        f"{made['cpu_s']:.1f}" if "cpu_s" in made else "-",
        f"{made['peak_mb']:,}" if "peak_mb" in made else "-",
        ", ".join(WORDS[told(entry, artifact, runtime)] for told in COMPARED.values()) if is_peer(artifact) else "-",
    ]


def latency(entry: Entry, artifact: str, runtime: str) -> Verdict:
    """By the interval of the ratio of our latency to this row's."""
    ours = row_of(entry, "latency", artifact, runtime).get("ours")
    if not ours:
        return None
    value, low, high = ours
    if low <= 1 <= high or abs(value - 1) <= max(SMALLEST, entry["latency"]["noise_floor"]):
        return 0
    return 1 if value < 1 else -1


def accuracy(entry: Entry, artifact: str, runtime: str) -> Verdict:
    """By McNemar's test of what both get right; the best of several peers is ahead by chance more often than one."""
    row, ours = (row_of(entry, "accuracy", name, runtime) for name in (artifact, OURS[runtime]))
    if "p" not in row or not ours:
        return None
    rows = [other for other in part_of(entry, "accuracy") if other["runtime"] == runtime]
    if row["p"] >= SIGNIFICANT / sum(is_peer(other["artifact"]) for other in rows):
        return 0
    return 1 if ours["drop"] < row["drop"] else -1


def size(entry: Entry, artifact: str, runtime: str) -> Verdict:
    """Bytes of the files."""
    return _least(entry, artifact, runtime, "bytes", 0.0)


def cpu_seconds(entry: Entry, artifact: str, runtime: str) -> Verdict:
    """Of the tool, all its threads together; other programs hardly change them."""
    return _least(entry, artifact, runtime, "cpu_s", ONCE, entry["artifacts"].get("fp32", {}).get("cpu_s", 0.0))


def memory(entry: Entry, artifact: str, runtime: str) -> Verdict:
    """Largest resident memory of the tool's process."""
    return _least(entry, artifact, runtime, "peak_mb", ONCE)


COMPARED: dict[str, Callable[[Entry, str, str], Verdict]] = {
    "latency": latency,
    "top-1": accuracy,
    "size": size,
    "CPU s": cpu_seconds,
    "memory": memory,
}
"""What ours is compared in, one artifact and runtime at a time."""


def _least(entry: Entry, artifact: str, runtime: str, column: str, tie: float, more: float = 0.0) -> Verdict:
    made = entry["artifacts"]
    ours, theirs = (made.get(name, {}).get(column) for name in (OURS[runtime], artifact))
    if ours is None or theirs is None:
        return None
    share = ours / (theirs + more) - 1
    return 0 if share == 0 or abs(share) < tie else 1 if share < 0 else -1


def standing(entry: Entry) -> Iterator[str]:
    """A sentence for each runtime and column: first, tied for first, or not first, and who is ahead."""
    for runtime in RUNTIMES:
        names = [name for name, where in keys(entry) if where == runtime and is_peer(name)]
        for column, told in COMPARED.items():
            found = {name: told(entry, name, runtime) for name in names}
            if any(verdict is not None for verdict in found.values()):
                yield f"{runtime}, {column}: {_place(found)}"
        yield from _closeness(entry, runtime)


def _place(found: dict[str, Verdict]) -> str:
    """What all peers together make of ours."""
    ahead = [name for name, verdict in found.items() if verdict == -1]
    tied = [name for name, verdict in found.items() if verdict == 0]
    if ahead:
        return f"**not first**; ahead: {'; '.join(ahead)}."
    return f"tied for first; nothing tells it from {'; '.join(tied)}." if tied else "first."


def _closeness(entry: Entry, runtime: str) -> Iterator[str]:
    """The same for what is read off the logits and has no interval."""
    rows = {row["artifact"]: row for row in part_of(entry, "accuracy") if row["runtime"] == runtime}
    peers = [row for name, row in rows.items() if is_peer(name)]
    if OURS[runtime] not in rows or not peers:
        return
    for column, word, unit in (("agreement", "agreement with FP32", " %"), ("sqnr_db", "SQNR of the logits", " dB")):
        ours, top = rows[OURS[runtime]][column], max(peers, key=lambda row, column=column: row[column])
        place = "first" if ours > top[column] else "tied for first" if ours == top[column] else "**not first**"
        yield f"{runtime}, {word}: {place}; {ours}{unit}, {top['artifact']} {top[column]}{unit}."


def is_peer(name: str) -> bool:
    """Neither FP32 nor a variant of ours."""
    return name != "fp32" and not name.startswith("ours")
