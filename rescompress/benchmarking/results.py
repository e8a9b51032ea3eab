"""A benchmark as a file: what was timed, what each artifact is, the machine, and every nanosecond beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rescompress import __version__
from rescompress.artifact import Artifact, sha256_of, to_json, write_bytes
from rescompress.benchmarking import machine
from rescompress.benchmarking.remote import device
from rescompress.spec import Environment, Floats, Precision, Proportion, RunReport
from rescompress.timing import BenchmarkRow, LatencyRow, RuleRow

SCHEMA = "rescompress.bench/1"


@dataclass(frozen=True)
class Measured:
    """What is known of one artifact beside its latency.

    Attributes:
        sha256: one digest for all its files.
        accuracy: top-1 in its own runtime, where the run that made it has measured that; else None.
        macs: multiply-accumulates for one image; None where nobody tells.
    """

    label: str
    backend: str
    sha256: str
    size_bytes: int
    precision: Precision
    floats: Floats = "fp32"
    accuracy: Proportion | None = None
    macs: int | None = None


@dataclass(frozen=True)
class Results:
    """A file of results.

    Attributes:
        command: how it was asked for.
        fingerprint: 16 hexadecimal digits of the machine and the releases; numbers of equal ones may be compared.
        artifacts: in the order in which they were named.
        benchmark: what was timed; its ``raw`` names the file of nanoseconds beside this one. None in no file that the
            harness writes, but in a run's report where nothing was timed.
        raw_sha256: SHA-256 of that file.
        rules: what the gate found, if there was one.
    """

    schema: str
    tool_version: str
    command: str
    fingerprint: str
    environment: Environment
    artifacts: tuple[Measured, ...]
    benchmark: BenchmarkRow | None
    raw_sha256: str = ""
    rules: tuple[RuleRow, ...] = ()

    def latency(self, artifact: Measured) -> LatencyRow | None:
        """The latency of one of the artifacts, if it was timed."""
        rows = self.benchmark.latencies if self.benchmark else ()
        return next((row for row in rows if (row.label, row.backend) == (artifact.label, artifact.backend)), None)

    def match(self, other: Measured) -> Measured | None:
        """The artifact of the same label and backend."""
        same = (one for one in self.artifacts if (one.label, one.backend) == (other.label, other.backend))
        return next(same, None)


def results(row: BenchmarkRow, artifacts: Sequence[Artifact], command: str) -> Results:
    """What is known after a benchmark of these artifacts.

    Args:
        row: what was timed.
        artifacts: in the order in which they were named.
        command: how it was asked for.
    """
    environment = device.environment(row.conditions) if row.device else machine.environment()
    known = tuple(map(measured, artifacts))
    return Results(SCHEMA, __version__, command, machine.fingerprint(environment), environment, known, row)


def measured(artifact: Artifact) -> Measured:
    """What an artifact's manifest says; accuracy and MACs if it still lies in the run that made and verified it."""
    manifest = artifact.manifest
    found = _run_of(artifact)
    known = next((one for one in of_report(found).artifacts if one.sha256 == artifact.sha256), None) if found else None
    return Measured(
        label=manifest.label,
        backend=manifest.backend,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        precision=manifest.precision,
        floats=manifest.floats,
        accuracy=known.accuracy if known else None,
        macs=known.macs if known else None,
    )


def of_report(report: RunReport) -> Results:
    """A run's report as a file of results."""
    macs = {stage.label: stage.cost.macs for stage in report.stages}
    artifacts = tuple(
        Measured(
            label=row.label,
            backend=row.backend,
            sha256=row.sha256,
            size_bytes=row.size_bytes,
            precision=row.verification.precision,
            floats=row.verification.floats,
            accuracy=row.verification.accuracy,
            macs=macs.get(row.label),
        )
        for row in report.artifacts
    )
    return Results(
        schema=SCHEMA,
        tool_version=report.tool_version,
        command=report.command,
        fingerprint=machine.fingerprint(report.environment),
        environment=report.environment,
        artifacts=artifacts,
        benchmark=report.benchmark,
        rules=report.rules,
    )


def write(found: Results, raw: Mapping[str, Any], file: Path) -> Results:
    """Write a file of results, and beside it ``NAME-ns.json`` with every measured nanosecond; each atomically.

    Args:
        found: what is to be kept.
        raw: latencies by candidate and launch, as ``benchmark`` returns them.
        file: where it goes.

    Returns:
        What was written, with the name and the SHA-256 of the second file.

    Raises:
        ResourceExhausted: the disk is full.
        InputRefused: the place can't be written.
    """
    beside = file.with_name(f"{file.stem}-ns.json")
    write_bytes(beside, to_json(dict(raw)))
    row = replace(found.benchmark, raw=beside.name) if found.benchmark else None
    whole = replace(found, benchmark=row, raw_sha256=sha256_of(beside))
    write_bytes(file, to_json(whole))
    return whole


def _run_of(artifact: Artifact) -> RunReport | None:
    """The report of the run in whose folder an artifact lies: RUN/artifacts/BACKEND/LABEL."""
    try:
        report = artifact.folder.resolve().parents[2] / "report.json"
        return TypeAdapter(RunReport).validate_json(report.read_bytes())
    except (OSError, IndexError, ValidationError):
        return None
