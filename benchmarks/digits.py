"""The README's numbers: run the demo's recipe and write its table, with the machine's fingerprint beside it.

    python benchmarks/digits.py

The recipe is the one that ``make demo`` runs. Every stage is exported, audited and verified in ONNX Runtime, and all
files are timed in one interleaved run.
"""

import sys
from pathlib import Path

import published

import rescompress
from rescompress.benchmarking import machine
from rescompress.spec import LatencyRow, RunReport

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- numbers: written by benchmarks/digits.py -->", "<!-- end of numbers -->"
RECIPE = "recipes/digits_resnet20.yaml"


def main() -> None:
    """Run, then write ``results/digits.json`` and the README's table."""
    report = rescompress.run(ROOT / RECIPE, command=f"rescompress run {RECIPE}")
    result = {
        "recipe": RECIPE,
        "environment": vars(report.environment),
        "fingerprint": machine.fingerprint(report.environment),
        "rows": _rows(report),
        "timing": _timing(report),
    }
    published.write("digits", result)
    readme = ROOT / "README.md"
    head, _, rest = readme.read_text("utf-8").partition(START)
    _, _, tail = rest.partition(END)
    readme.write_text(f"{head}{START}\n{_table(report)}\n{END}{tail}", "utf-8")
    sys.stdout.write(_table(report) + "\n")


def _latency(report: RunReport, label: str) -> LatencyRow:
    assert report.benchmark is not None
    return next(row for row in report.benchmark.latencies if row.label == label)


def _rows(report: RunReport) -> list[dict[str, object]]:
    return [
        {
            "stage": row.label,
            "accuracy": vars(row.verification.accuracy) if row.verification.accuracy else None,
            "sqnr_db": row.verification.sqnr_db,
            "agreement": vars(row.verification.agreement),
            "int8_convs": vars(row.precision.int8_share("conv")),
            "int8_adds": vars(row.precision.int8_share("add")),
            "size_bytes": row.size_bytes,
            "p50_ms": _latency(report, row.label).p50_ms,
            "p90_ms": _latency(report, row.label).p90_ms,
            "ratio": [getattr(_latency(report, row.label), name) for name in ("ratio", "ratio_low", "ratio_high")],
        }
        for row in report.artifacts
    ]


def _timing(report: RunReport) -> dict[str, object]:
    assert report.benchmark is not None
    facts = report.benchmark
    return {"verdict": facts.verdict, "reasons": facts.reasons, "noise_floor": facts.noise_floor}


def _table(report: RunReport) -> str:
    assert report.benchmark is not None
    lines = [
        "| stage | accuracy in ONNX Runtime | INT8 convs, adds | file | p50 | p90 | latency ratio [95 %] |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report.artifacts:
        timed, accuracy = _latency(report, row.label), row.verification.accuracy
        conv, add = row.precision.int8_share("conv"), row.precision.int8_share("add")
        shown = f"{accuracy.percent:.2f} % ({accuracy.correct} of {accuracy.total})" if accuracy else "not measured"
        p90 = f"{timed.p90_ms:.3f} ms" if timed.p90_ms is not None else "too few queries"
        lines.append(
            f"| {row.label} | {shown} | {conv.correct} of {conv.total}, {add.correct} of {add.total} | "
            f"{row.size_bytes / 1000:,.0f} kB | {timed.p50_ms:.3f} ms | {p90} | "
            f"{timed.ratio:.2f} [{timed.ratio_low:.2f}, {timed.ratio_high:.2f}] |"
        )
    facts, where = report.benchmark, report.environment
    runtime = f"onnxruntime {where.packages['onnxruntime']}"
    sentences = [
        f"One thread, batch {facts.batch}, {facts.launches} process launches, interleaved.",
        "Ratios are against the first row; below 1 is faster.",
        f"{where.cpu}, {where.cores} cores ({', '.join(where.isa)}), {runtime}.",
        f"The timing's own verdict: {facts.verdict}.",
        *facts.reasons,
    ]
    return "\n".join([*lines, "", *sentences])


if __name__ == "__main__":
    main()
