"""What LoadGen has written down of a run: its verdict, its numbers, and each latency."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RULES = {
    "min_duration": "result_min_duration_met",
    "min_queries": "result_min_queries_met",
    "perf_constraints": "result_perf_constraints_met",
    "early_stopping": "early_stopping_met",
}
"""What LoadGen's log calls each of its rules."""
_DETAIL = ":::MLLOG "
_SAMPLE = '{"name":"Sample"'
_FIELDS = np.dtype([("query", np.int64), ("due_ns", np.int64), ("took_ns", np.int64)])

Samples = NDArray[np.void]
Times = NDArray[np.int64]


def said(folder: Path) -> dict[str, Any]:
    """The keys and values of its detailed log."""
    lines = (folder / "mlperf_log_detail.txt").read_text("utf-8", "replace").splitlines()
    entries = [json.loads(line.removeprefix(_DETAIL)) for line in lines if line.startswith(_DETAIL)]
    return {entry["key"]: entry["value"] for entry in entries}


def samples(folder: Path) -> Samples:
    """Each image's ``query`` (its number), ``due_ns`` (since the log began) and ``took_ns``, query by query.

    The images of a query stand in the order in which they were answered.
    """
    with (folder / "mlperf_log_trace.json").open(encoding="utf-8") as trace:
        found = [_sample(line) for line in trace if line.startswith(_SAMPLE) and '"ph":"b"' in line]
    return np.sort(np.array(found, _FIELDS), order=("query", "took_ns"))


def queries(samples: Samples) -> tuple[Times, Times]:
    """Latency of each query, until the last of its images was answered, and when it was due; in nanoseconds."""
    last = samples[np.append(samples["query"][1:] != samples["query"][:-1], True)]
    return last["took_ns"], last["due_ns"]


def batches(samples: Samples) -> tuple[Times, Times]:
    """How long each batch of the one query took, which begins where the last one ended; and when, in nanoseconds."""
    ends = np.unique(samples["took_ns"])  # all images of a batch are answered in the same nanosecond
    begins = np.append(0, ends[:-1])
    return ends - begins, samples["due_ns"][0] + begins


def _sample(line: str) -> tuple[int, int, int]:
    event = json.loads(line.rstrip().rstrip(","))
    return event["args"]["query_seq"], round(event["ts"] * 1e3), event["args"]["complete_ns"]
