"""What a run came to, in words: the judgements for the box on top and the headline."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rescompress.benchmarking.gate import failures
from rescompress.reporting import wording
from rescompress.spec import ArtifactRow, BenchmarkRow, LatencyRow, Rung, RunReport

Tone = Literal["good", "warn", "bad", "none"]


@dataclass(frozen=True)
class Judgement:
    """One thing that was judged: in a word, and why."""

    subject: str
    word: str
    tone: Tone
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """An artifact beside its own timing, under the name that tables and plots give it."""

    name: str
    artifact: ArtifactRow
    latency: LatencyRow | None

    @property
    def stage(self) -> str:
        """The stage that it was exported from, the same for each backend."""
        return stage_of(self.artifact)


def overall(report: RunReport) -> Judgement:
    """The run in a word: a failure outweighs everything, then every reservation is named."""
    if any(judgement.tone == "bad" for judgement in (gate(report), verification(report), rules(report))):
        return Judgement("Verdict", "Failed", "bad")
    gated = report.gate is not None or bool(report.rules)
    word = "Passed" if gated else "No gate was set"
    reservations = []
    if not report.artifacts:
        reservations.append("nothing exported")
    elif report.artifacts[-1].verification.accuracy is None:
        reservations.append("accuracy not measured")
    if report.benchmark is None:
        reservations.append("not timed")
    elif report.benchmark.verdict != "VALID":
        reservations.append(f"timing {report.benchmark.verdict}")
    return Judgement("Verdict", ", ".join([word, *reservations]), "good" if gated and not reservations else "warn")


def judgements(report: RunReport) -> tuple[Judgement, ...]:
    """What is judged: accuracy gate, verification of every artifact, benchmark; and the rules, if there were any."""
    asked = (rules(report),) if report.rules else ()
    return (gate(report), verification(report), benchmark(report), *asked)


def gate(report: RunReport) -> Judgement:
    """Whether the final artifact kept the accuracy that was asked for."""
    subject, row = "Accuracy gate", report.gate
    if row is None:
        return Judgement(subject, "not set", "none", ("No limit on the accuracy drop was given.",))
    drop = "was not measured" if row.accuracy_drop is None else f"is {row.accuracy_drop:.2f} points"
    facts = (f"The accuracy drop {drop}; at most {row.max_accuracy_drop:.2f} points are allowed.",)
    return Judgement(
        subject, "passed" if row.passed else "failed", "good" if row.passed else "bad", facts + row.reasons
    )


def rules(report: RunReport) -> Judgement:
    """Whether every artifact kept to the rules of ``fail_if``; what couldn't be judged is told too."""
    subject, failing = "Rules", failures(report.rules)
    if failing:
        return Judgement(subject, "broken", "bad", tuple(row.fact for row in failing))
    said = tuple(row.fact for row in report.rules if row.outcome != "kept")
    names = ", ".join(dict.fromkeys(row.rule for row in report.rules))
    return Judgement(subject, "kept", "warn" if said else "good", (f"No artifact crosses {names}.", *said))


def verification(report: RunReport) -> Judgement:
    """Whether every artifact computes in its runtime what eager PyTorch computes."""
    subject, rows = "Verification", candidates(report)
    if not rows:
        return Judgement(subject, "nothing to verify", "none", ("No artifact was exported.",))
    failures = tuple(f"{row.name}: {failure}" for row in rows for failure in row.artifact.verification.failures)
    if not failures:
        fact = f"{len(rows)} of {len(rows)} artifacts agree with eager PyTorch, run in a fresh process."
        return Judgement(subject, "passed", "good", (fact,))
    return Judgement(subject, "failed", "bad", failures)


def benchmark(report: RunReport) -> Judgement:
    """Whether the timing can be trusted."""
    subject, row = "Benchmark", report.benchmark
    if row is None:
        return Judgement(subject, "not run", "none", ("No artifact was timed.",))
    size = f"batch {row.batch}, {_plural(row.threads, 'thread')}, {_plural(row.launches, 'process launch')}"
    tones: dict[str, Tone] = {"VALID": "good", "INDICATIVE": "warn", "INVALID": "bad"}
    method = f"{row.scenario.capitalize()}, {size}."
    return Judgement(subject, row.verdict, tones[row.verdict], row.reasons or (method,))


def candidates(report: RunReport) -> tuple[Candidate, ...]:
    """Every artifact with its timing; the backend joins the name where there are several backends."""
    several = len({artifact.backend for artifact in report.artifacts}) > 1
    timed = {(row.label, row.backend): row for row in report.benchmark.latencies} if report.benchmark else {}
    return tuple(
        Candidate(
            _name(artifact, several),
            artifact,
            timed.get((artifact.label, artifact.backend)),
        )
        for artifact in report.artifacts
    )


def timed_names(timing: BenchmarkRow) -> tuple[str, ...]:
    """The names of what was timed, like those of the candidates."""
    several = len({row.backend for row in timing.latencies}) > 1
    return tuple(_name(row, several) for row in timing.latencies)


def stages_of(rows: Sequence[LatencyRow | ArtifactRow]) -> tuple[str, ...]:
    """The stages of artifacts in their order, each once: what a plot has a colour for."""
    return tuple(dict.fromkeys(map(stage_of, rows)))


def stage_of(row: LatencyRow | ArtifactRow) -> str:
    """A label without the backend that a stage was done for, if it was done for several."""
    return row.label.removesuffix(f"-{row.backend}")


def rung(candidate: Candidate) -> Rung:
    """The rung that this run saw an artifact climb: what verifying it has proven, and L3 if it was timed too."""
    proven = candidate.artifact.verification.rung
    return "L3" if proven == "L2" and candidate.latency is not None else proven


def headline(report: RunReport) -> str:
    """The last artifact against the first, in one sentence: size, latency, accuracy."""
    return ", ".join(phrases(report)) + "."


def phrases(report: RunReport) -> tuple[str, ...]:
    """The headline in parts, so that a page breaks its lines between them.

    Of several backends it tells of the one whose last artifact is fastest, or of the last where none was timed.
    """
    rows = candidates(report)
    if not rows:
        return ("No artifact was exported",)
    first, last = _ends(report, rows)
    if len(rows) == 1:
        return (f"One artifact of {wording.size(last.artifact.size_bytes)}", _accuracy(first, last))
    smaller = last.artifact.size_bytes / first.artifact.size_bytes
    several = len({row.artifact.backend for row in rows}) > 1
    return (
        f"{wording.real(smaller, 2)}{wording.TIMES} the size",
        _latency(report, first, last),
        _accuracy(first, last),
        *((f"in {last.artifact.backend}",) if several else ()),
    )


def no_difference(row: LatencyRow, timing: BenchmarkRow) -> bool:
    """The ratio can't be told from 1: its interval holds 1, or it is inside 1 % or the noise floor."""
    within_noise = abs(row.ratio - 1) < max(0.01, timing.noise_floor)
    return within_noise or row.ratio_low <= 1 <= row.ratio_high


def _name(row: LatencyRow | ArtifactRow, several: bool) -> str:
    return f"{stage_of(row)} ({row.backend})" if several else row.label


def _ends(report: RunReport, rows: Sequence[Candidate]) -> tuple[Candidate, Candidate]:
    """The baseline that ratios are against, and the artifact to tell of."""
    timed = report.benchmark.latencies[:1] if report.benchmark else ()
    first = next((row for row in rows if row.latency and row.latency in timed), rows[0])
    finals = {row.artifact.backend: row for row in rows}.values()
    return first, min((row for row in finals if row.latency), key=_p50, default=rows[-1])


def _p50(row: Candidate) -> float:
    assert row.latency
    return row.latency.p50_ms


def _latency(report: RunReport, first: Candidate, last: Candidate) -> str:
    timing, row = report.benchmark, last.latency
    if timing is None or row is None or first.latency != timing.latencies[0]:
        return "latency not measured"
    if timing.verdict == "INVALID":
        return "latency not comparable"
    doubt = " (indicative)" if timing.verdict == "INDICATIVE" else ""
    if no_difference(row, timing):
        return f"no measurable difference in latency{doubt}"
    ends = (row.ratio, row.ratio_low, row.ratio_high)
    if row.ratio > 1:
        return f"{_times(*ends)} slower{_between(*ends)}{doubt}"
    upside_down = (1 / row.ratio, 1 / row.ratio_high, 1 / row.ratio_low)
    return f"{_times(*upside_down)} faster{_between(*upside_down)}{doubt}"


def _times(centre: float, low: float, high: float) -> str:
    return f"{wording.real(centre, _digits(centre))}{wording.TIMES}"


def _between(centre: float, low: float, high: float) -> str:
    return f" {wording.interval(centre, low, high, _digits(centre))}"


def _digits(times: float) -> int:
    return 3 if times < 2 else 2


def _accuracy(first: Candidate, last: Candidate) -> str:
    before, after = (row.artifact.verification.accuracy for row in (first, last))
    if before is None or after is None:
        return "accuracy not measured"
    if first is last:
        return f"accuracy {wording.percent(after)}"
    return f"accuracy {wording.percent(before)} → {wording.percent(after)}"


def _plural(number: int, noun: str) -> str:
    ending = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number} {noun}{ending}"
