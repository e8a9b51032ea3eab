"""Rules such as ``p50>+5%`` judged on a benchmark: a regression must be real before it fails anything."""

from collections.abc import Sequence
from dataclasses import dataclass

from rescompress.benchmarking import changes
from rescompress.benchmarking.results import Measured, Results
from rescompress.benchmarking.rules import TIMED, Rule
from rescompress.benchmarking.statistics import Estimate
from rescompress.errors import BenchmarkInvalid
from rescompress.timing import BenchmarkRow, Outcome, RuleRow

NAMES = {"first": "first query", "load": "load time", "rss": "peak memory"}
SETTINGS = ("batch", "threads", "scenario", "target")
"""What must be equal for two latencies to be of one kind."""
AGAINST = "Time a baseline before it, or name a baseline file."
UNJUDGED = "Without it the rule can't be judged: measure it alike in both, or leave the rule out."
UNITS = {"accuracy": "%", "size": "bytes", "rss": "bytes", "throughput": "images/s"}


@dataclass(frozen=True)
class Change:
    """How far a metric moved, in percent or points; whether that is more than noise, and what there is to say of it."""

    value: float
    real: bool
    low: float | None = None
    high: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class Case:
    """One artifact of a benchmark and its counterpart: of the same run, or of a file whose name is given."""

    now: Results
    mine: Measured
    before: Results
    theirs: Measured
    file: str

    @property
    def subject(self) -> str:
        """The artifact's name; the backend joins it where there are several."""
        return name_of(self.now, self.mine)

    @property
    def reference(self) -> str:
        """What it is compared with, as a sentence goes on."""
        return f"in {self.file}" if self.file else name_of(self.now, self.theirs)


def judge(rules: Sequence[Rule], now: Results, before: Results | None = None, file: str = "") -> tuple[RuleRow, ...]:
    """What each rule finds of each artifact.

    A relative rule compares with the artifact of the same label and backend in ``before``, or without it with the
    benchmark's own baseline. A change that is within its interval of none, or within the noise, breaks no rule. If
    both benchmarks timed the same baseline on the same machine and releases, it is the measure: what it changed by,
    the machine did.

    Args:
        rules: what must not be.
        now: what was timed.
        before: what it is compared with; None for the benchmark's own baseline.
        file: the name of the file that holds ``before``.

    Raises:
        BenchmarkInvalid: the two were timed under different settings, or a signed limit is against nothing.
    """
    for rule in rules:
        if rule.relative and before is None and len(now.artifacts) < 2:
            only = "".join(f"only {name_of(now, one)}" for one in now.artifacts) or "nothing"
            raise BenchmarkInvalid(f"{rule} is against nothing: {only} was timed.", AGAINST)
    if before is not None and any(rule.relative and rule.metric in TIMED for rule in rules):
        _check_settings(now.benchmark, before.benchmark, file)
    return tuple(row for rule in rules for mine in now.artifacts for row in _one(rule, now, mine, before, file))


def enforce(rows: Sequence[RuleRow], strict: bool = False) -> None:
    """Let nothing pass that breaks a rule.

    Args:
        rows: what the rules found.
        strict: whether what can't be compared or judged fails too.

    Raises:
        BenchmarkInvalid: a rule is broken, or there is nothing at all to judge it by.
    """
    failing = failures(rows, strict)
    if failing:
        first, more = failing[0], len(failing) - 1
        others = f" {more} more {'is' if more == 1 else 'are'} listed above." if more else ""
        remedy = "Find what made it so, or raise the limit." if first.outcome == "broken" else UNJUDGED
        raise BenchmarkInvalid(first.fact, f"{remedy}{others}")


def failures(rows: Sequence[RuleRow], strict: bool = False) -> tuple[RuleRow, ...]:
    """What ``enforce`` lets nothing pass for; a rule that nothing can be judged by counts with all its rows."""
    judged = {row.rule for row in rows if row.outcome != "unknown"}
    bad = {"broken", *(("unsure", "unknown") if strict else ())}
    return tuple(row for row in rows if row.outcome in bad or row.rule not in judged)


def name_of(run: Results, artifact: Measured) -> str:
    """An artifact's label; the backend joins it where there are several."""
    several = len({one.backend for one in run.artifacts}) > 1
    return f"{artifact.label} ({artifact.backend})" if several else artifact.label


def _check_settings(now: BenchmarkRow | None, before: BenchmarkRow | None, file: str) -> None:
    for setting in SETTINGS:
        mine, theirs = getattr(now, setting, None), getattr(before, setting, None)
        if now and before and mine != theirs:
            raise BenchmarkInvalid(
                f"{file} was timed with {setting} {theirs}, this with {setting} {mine}.",
                "Time both alike, or make the baseline file again.",
            )


def _one(rule: Rule, now: Results, mine: Measured, before: Results | None, file: str) -> list[RuleRow]:
    """The row of one artifact; none for the baseline against itself."""
    outcome: Outcome = "unknown"
    if fact := _invalid(rule, now, "this benchmark") or (rule.relative and before and _invalid(rule, before, file)):
        pass
    elif not rule.relative:
        outcome, fact = _absolute(rule, now, mine)
    elif before is not None:
        theirs = before.match(mine)
        if theirs is None:
            fact = f"{name_of(now, mine)} is not in {file}."
        else:
            outcome, fact = _relative(rule, Case(now, mine, before, theirs, file))
    elif mine is now.artifacts[0]:
        return []
    else:
        outcome, fact = _relative(rule, Case(now, mine, now, now.artifacts[0], ""))
    return [RuleRow(str(rule), mine.label, mine.backend, outcome, fact)]


def _invalid(rule: Rule, run: Results, where: str) -> str:
    """Why nothing that was timed in this run can be judged; empty where it can."""
    if rule.metric in TIMED and run.benchmark and run.benchmark.verdict == "INVALID":
        return f"The timing of {where} is INVALID: {run.benchmark.reasons[0]}"
    return ""


def _absolute(rule: Rule, now: Results, mine: Measured) -> tuple[Outcome, str]:
    value, subject = _value(rule.metric, now, mine), f"The {_metric(rule)} of {name_of(now, mine)}"
    if value is None:
        return "unknown", f"{subject} is not known."
    said = f"{subject} is {value:.4g} {UNITS.get(rule.metric, 'ms')}; the limit is {rule.told}."
    return ("broken" if rule.crossed_by(value) else "kept"), said


def _relative(rule: Rule, case: Case) -> tuple[Outcome, str]:
    mine, theirs = _value(rule.metric, case.now, case.mine), _value(rule.metric, case.before, case.theirs)
    if mine is None or theirs is None or (theirs == 0 and rule.metric != "accuracy"):
        where = "" if mine is None else f" {case.reference}" if case.file else f" of {case.reference}"
        return "unknown", f"The {_metric(rule)} of {case.subject} is not known{where}."
    change = _change(rule.metric, case, mine, theirs)
    crossed = rule.crossed_by(change.value)
    if not crossed or not (change.real or rule.crossed_by(0.0)):
        doubt = "" if change.real or not crossed else ", which may be noise"
        return "kept", _sentence(rule, case, change, doubt)
    elsewhere = changes.other_machine(case.now, case.before) if rule.metric in TIMED else ""
    if elsewhere:
        return "unsure", _sentence(rule, case, change, f", which was another machine ({elsewhere})")
    if rule.metric == "p50" and _is_anchor(case):
        return "kept", _sentence(rule, case, change, ", though neither it nor its runtime changed: the machine did")
    return "broken", _sentence(rule, case, change)


def _change(metric: str, case: Case, mine: float, theirs: float) -> Change:
    if metric == "accuracy":
        return _points(case)
    runs = [case.now, case.before]
    ratio = mine / theirs
    if metric != "p50":
        real = metric not in TIMED or abs(ratio - 1) > changes.noise(runs)
        return Change(100 * (ratio - 1), real)
    now, before = case.now.latency(case.mine), case.before.latency(case.theirs)
    assert now is not None, "a p50 is known"
    assert before is not None, "a p50 is known"
    remark, found = "", changes.ratio(now, before)
    if not case.file:
        found = Estimate(now.ratio, now.ratio_low, now.ratio_high)
    elif (anchor := _anchor(case.now, case.before)) and anchor is not case.mine:
        found = changes.ratio_of_ratios(now, before)
        remark = f", each measured beside the same {name_of(case.now, anchor)}"
    real = changes.is_real(found, changes.noise(runs))
    value, low, high = (100 * (end - 1) for end in (found.value, found.low, found.high))
    return Change(value, real, low, high, remark)


def _points(case: Case) -> Change:
    """Equal test splits leave nothing to chance: the same images were got right or wrong."""
    assert case.mine.accuracy, "an accuracy is known"
    assert case.theirs.accuracy, "an accuracy is known"
    found = changes.points(case.mine.accuracy, case.theirs.accuracy)
    same = case.mine.accuracy.total == case.theirs.accuracy.total
    return Change(found.value, same or not found.low <= 0 <= found.high, found.low, found.high)


def _anchor(now: Results, before: Results) -> Measured | None:
    """The baseline of both benchmarks, if it, the machine and the releases are the same."""
    first = [run.benchmark.latencies[0] for run in (now, before) if run.benchmark and run.benchmark.latencies]
    if len(first) < 2 or now.fingerprint != before.fingerprint:
        return None
    mine, theirs = now.artifacts[0], before.match(now.artifacts[0])
    if theirs is None or {(one.label, one.backend) for one in first} != {(mine.label, mine.backend)}:
        return None
    return mine if changes.unchanged(mine, theirs) else None


def _is_anchor(case: Case) -> bool:
    """Whether the artifact is what others are measured by; where it is alone, it is judged."""
    return bool(case.file) and len(case.now.artifacts) > 1 and _anchor(case.now, case.before) is case.mine


def _sentence(rule: Rule, case: Case, change: Change, doubt: str = "") -> str:
    up = change.value >= 0
    unit = " points" if rule.metric == "accuracy" else " %"
    bracket = ""
    if change.low is not None and change.high is not None:
        low, high = (change.low, change.high) if up else (-change.high, -change.low)
        bracket = f" [{low:.1f}, {high:.1f}]"
    if rule.metric == "p50":
        subject, word = case.subject, "slower" if up else "faster"
    else:
        subject, word = f"The {_metric(rule)} of {case.subject}", "higher" if up else "lower"
    moved = f"{abs(change.value):.1f}{unit}{bracket} {word} than" if change.value or bracket else "the same as"
    return f"{subject} is {moved} {case.reference}{change.remark}{doubt}; the limit is {rule.told}."


def _metric(rule: Rule) -> str:
    return NAMES.get(rule.metric, rule.metric)


def _value(metric: str, run: Results, artifact: Measured) -> float | None:
    """In milliseconds, bytes, images a second or percent; None where nobody measured it."""
    if metric == "size":
        return float(artifact.size_bytes)
    if metric == "accuracy":
        return artifact.accuracy.percent if artifact.accuracy else None
    row = run.latency(artifact)
    if row is None:
        return None
    found = {
        "p50": row.p50_ms,
        "p90": row.p90_ms,
        "p95": row.p95_ms,
        "p99": row.p99_ms,
        "first": row.cold.first_ms,
        "load": row.cold.load_ms,
        "rss": row.cold.peak_rss_bytes,
        "throughput": row.images_per_s,
    }
    return found[metric]
