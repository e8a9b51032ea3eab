"""Prints what was measured, and says of every column whether ours is first."""

from collections.abc import Iterator
from typing import Any

OURS = {"onnxruntime": "ours", "openvino": "ours, for OpenVINO"}
"""Our row in each runtime: made by its own scheme."""
RUNTIMES = tuple(OURS)
TIED = 1.02
SIGNIFICANT = 0.05
COLUMNS = (
    "artifact", "runtime", "latency [95 %]", "ours/this", "top-1", "drop [95 %]", "agree", "SQNR dB", "p", "INT8 nodes",
    "kB", "tool s", "peak MB",
)  # fmt: skip


def table(name: str, entry: dict[str, Any]) -> str:
    """One network as a Markdown table, and a sentence for each column in which ours isn't first."""
    header = [f"## {name}: {entry['calibrated']} images calibrate, {entry['judged']} judge", ""]
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(entry, *key)) + " |" for key in keys(entry)]
    timed = entry.get("latency")
    if timed:
        lines += ["", f"Timing: {timed['verdict']}, noise floor {timed['noise_floor']}.", *timed["reasons"]]
    lines += [f"Without {peer}: {why}" for peer, why in entry["missing"].items()]
    return "\n".join([*header, *lines, "", *(f"- {sentence}" for sentence in standing(entry))])


def keys(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """Artifact and runtime of each row, FP32 first, then ours."""
    found = [(row["artifact"], row["runtime"]) for part in ("accuracy", "latency") for row in part_of(entry, part)]
    order = {"fp32": 0, **dict.fromkeys(OURS.values(), 1)}
    return sorted(dict.fromkeys(found), key=lambda key: (RUNTIMES.index(key[1]), order.get(key[0], 2)))


def part_of(entry: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """The rows of one part, none if it wasn't run."""
    rows: list[dict[str, Any]] = entry.get(part, {}).get("rows", [])
    return rows


def row_of(entry: dict[str, Any], part: str, artifact: str, runtime: str) -> dict[str, Any]:
    """One row of one part, empty if there is none."""
    found = [row for row in part_of(entry, part) if (row["artifact"], row["runtime"]) == (artifact, runtime)]
    return found[0] if found else {}


def cells(entry: dict[str, Any], artifact: str, runtime: str) -> list[str]:
    """The cells of one row; a dash where nothing was measured."""
    judged, timed = row_of(entry, "accuracy", artifact, runtime), row_of(entry, "latency", artifact, runtime)
    made = entry["artifacts"].get(artifact, {})
    ratio, ours = timed.get("ratio"), timed.get("ours")
    return [
        artifact,
        runtime,
        f"{ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}]" if ratio else "-",
        f"{ours[0]:.3f} [{ours[1]:.3f}, {ours[2]:.3f}]" if ours else "-",
        f"{judged['accuracy']:.2f}" if judged else "-",
        f"{judged['drop']:.2f} [{judged['low']:.2f}, {judged['high']:.2f}]" if judged else "-",
        f"{judged['agreement']:.2f}" if judged else "-",
        f"{judged['sqnr_db']:.1f}" if judged.get("sqnr_db") else "-",
        f"{judged['p']:.3f}" if "p" in judged else "-",
        f"{timed['int8']}/{timed['computing']}" if timed else "-",
        f"{made['bytes'] / 1000:,.0f}" if made else "-",
        f"{made['seconds']:.1f}" if "seconds" in made else "-",
        f"{made['peak_mb']}" if "peak_mb" in made else "-",
    ]


def standing(entry: dict[str, Any]) -> Iterator[str]:
    """A sentence for each column and runtime: first, tied or behind, and whom."""
    for runtime in RUNTIMES:
        yield from judged_standing(entry, runtime)
        rows = {row["artifact"]: row for row in part_of(entry, "latency") if row["runtime"] == runtime}
        peers = [row for name, row in rows.items() if is_peer(name) and row["ours"]]
        if OURS[runtime] in rows and peers:
            best = min(peers, key=lambda row: row["p50_ms"])
            value, low, high = best["ours"]
            word = "first" if value <= 1 else "tied" if value <= TIED else "BEHIND"
            yield f"{runtime}, latency: {word}; {value:.3f} [{low:.3f}, {high:.3f}] of {best['artifact']}'s"
    yield from cost_standing(entry["artifacts"])


def cost_standing(made: dict[str, Any]) -> Iterator[str]:
    """The same for size, time and memory; time is told from the checkpoint, so peers bear the export of FP32."""
    export = made["fp32"].get("seconds", 0.0)
    for column in ("bytes", "seconds", "peak_mb"):
        more = export if column == "seconds" else 0
        found = {name: facts[column] + more for name, facts in made.items() if column in facts and is_peer(name)}
        if "ours" in made and found:
            ours, best = made["ours"][column], min(found, key=lambda name: found[name])
            word = "first" if ours <= found[best] else "BEHIND"
            yield f"{column}: {word}; {ours:.0f} beside {found[best]:.0f} of {best}"


def judged_standing(entry: dict[str, Any], runtime: str) -> Iterator[str]:
    """The same for what is read off the logits."""
    rows = {row["artifact"]: row for row in part_of(entry, "accuracy") if row["runtime"] == runtime}
    peers = [row for name, row in rows.items() if is_peer(name)]
    if OURS[runtime] not in rows or not peers:
        return
    ours, best = rows[OURS[runtime]], min(peers, key=lambda row: row["drop"])
    # The best of several peers is ahead by chance more often than one: Holm's correction for so many comparisons.
    behind = [row for row in peers if row["drop"] < ours["drop"] and row["p"] < SIGNIFICANT / len(peers)]
    word = "first" if ours["drop"] <= best["drop"] else "BEHIND" if behind else "tied"
    yield f"{runtime}, accuracy: {word}; {ours['drop']} points lost, {best['artifact']} {best['drop']}, p {best['p']}"
    for column in ("agreement", "sqnr_db"):
        top = max(peers, key=lambda row: row[column])
        word = "first" if ours[column] >= top[column] else "BEHIND"
        yield f"{runtime}, {column}: {word}; {ours[column]}, {top['artifact']} {top[column]}"


def is_peer(name: str) -> bool:
    """Neither FP32 nor a variant of ours."""
    return name != "fp32" and not name.startswith("ours")
