"""Can the timing be trusted? A verdict with its reasons, read off measured facts and nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from rescompress.benchmarking.conditions import disturbance
from rescompress.benchmarking.conditions.disturbance import Disturbance
from rescompress.spec import LatencyRow, Verdict

_LAUNCHES = 5
_QUERIES = 64  # what LoadGen's early stopping asks for a 90th percentile
_SECONDS = 3.0  # as long as trtexec times at least
_COV, _GPU_COV = 0.05, 0.025  # the second is trtexec's
_DRIFT = 0.03
_NOISE_FLOOR = 0.03
_FOREIGN = 0.05
_STOLEN = 0.01
_SMALLEST_DIFFERENCE = 0.01


@dataclass(frozen=True)
class Facts:
    """What was seen while timing. None means that this system does not tell.

    Attributes:
        launches: fresh processes per candidate.
        queries: measured queries of each candidate.
        mismatched: candidates whose outputs changed from one launch to another.
        unsteady: candidates that were still warming up when they were timed.
        cov: coefficient of variation of each candidate's block medians.
        drift: change from the first to the last third of each candidate's blocks.
        noise_floor: how far the ratio of two copies of the baseline may be from 1.
        foreign: share of the machine's CPU time that other programs took.
        stolen: share of the machine's CPU time that the hypervisor gave to other machines.
        disturbance: what happened to the machine; None where nobody looked.
        objections: what LoadGen has against its runs, or a device's tool leaves out, a sentence each.
        departed: candidates whose outputs are not those that were verified.
        unverified: why some candidates' outputs could not be compared with verified ones, by name.
        seconds: how long each candidate was measured; empty where nobody counted.
        gpu: candidates that ran on a GPU, which is steadier than a processor.
    """

    launches: int
    queries: dict[str, int]
    mismatched: tuple[str, ...]
    unsteady: tuple[str, ...]
    cov: dict[str, float]
    drift: dict[str, float]
    noise_floor: float
    foreign: float | None
    stolen: float | None
    disturbance: Disturbance | None = None
    objections: tuple[str, ...] = ()
    departed: tuple[str, ...] = ()
    unverified: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    gpu: tuple[str, ...] = ()


def judge(facts: Facts) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict and its reasons, a sentence each.

    Where several candidates are too unsteady, the worst is named. What could not be seen is told, but changes no
    verdict.
    """
    wrong, weak, unseen = tuple(_wrong(facts)), tuple(_weak(facts)), tuple(_unseen(facts))
    verdict: Verdict = "INVALID" if wrong else "INDICATIVE" if weak else "VALID"
    return verdict, wrong + weak + unseen


def differs(latency: LatencyRow, noise_floor: float) -> bool:
    """Is this artifact really slower or faster than the baseline?

    Its interval must exclude 1, and the difference must exceed 1 % and what two equal copies showed.
    """
    outside = latency.ratio_low > 1 or latency.ratio_high < 1
    return outside and abs(latency.ratio - 1) > max(_SMALLEST_DIFFERENCE, noise_floor)


def _wrong(facts: Facts) -> Iterator[str]:
    for name in facts.mismatched:
        yield f"{name} computed different outputs in different launches (output mismatch)."
    for name in facts.departed:
        yield f"{name} computed other outputs than when it was verified (output mismatch)."


def _weak(facts: Facts) -> Iterator[str]:
    yield from facts.objections
    if facts.launches < _LAUNCHES:
        yield f"Only {facts.launches} launches were made; {_LAUNCHES} are needed."
    name = min(facts.queries, key=facts.queries.__getitem__)
    if facts.queries[name] < _QUERIES:
        yield f"{name} answered only {facts.queries[name]} queries; {_QUERIES} are needed."
    name = min(facts.seconds, key=facts.seconds.__getitem__, default="")
    if name and facts.seconds[name] < _SECONDS:
        yield f"{name} was measured for only {facts.seconds[name]:.1f} s; {_SECONDS:g} s are needed."
    if facts.unsteady:
        yield f"Still warming up when they were timed: {', '.join(facts.unsteady)}."
    limits = {name: _GPU_COV if name in facts.gpu else _COV for name in facts.cov}
    name = max(limits, key=lambda name: facts.cov[name] / limits[name])
    if facts.cov[name] > limits[name]:
        yield f"{name} varied by {facts.cov[name]:.1%} from block to block; {100 * limits[name]:g}% is the limit."
    name = max(facts.drift, key=lambda name: abs(facts.drift[name]))
    if abs(facts.drift[name]) > _DRIFT:
        yield f"{name} drifted by {facts.drift[name]:+.1%} from its first third to its last; {_DRIFT:.0%} is the limit."
    yield from _disturbed(facts)


def _disturbed(facts: Facts) -> Iterator[str]:
    if facts.noise_floor > _NOISE_FLOOR:
        yield f"Two copies of the baseline differ by up to {facts.noise_floor:.1%}; {_NOISE_FLOOR:.0%} is the limit."
    if facts.foreign is not None and facts.foreign > _FOREIGN:
        yield f"Other programs took {facts.foreign:.0%} of the machine; {_FOREIGN:.0%} is the limit."
    if facts.stolen is not None and facts.stolen > _STOLEN:
        yield f"The hypervisor stole {facts.stolen:.1%} of the machine; {_STOLEN:.0%} is the limit."
    if facts.disturbance:
        yield from disturbance.reasons(facts.disturbance)


def _unseen(facts: Facts) -> Iterator[str]:
    if facts.foreign is None:
        yield "The load by other programs is unavailable on this system."
    if facts.stolen is None:
        yield "The time stolen by a hypervisor is unavailable on this system."
    for why in sorted(set(facts.unverified.values())):
        names = ", ".join(name for name, given in facts.unverified.items() if given == why)
        yield f"Outputs were only compared between launches, not with verified ones, because {why}: {names}."
    if facts.disturbance:
        yield from disturbance.unseen(facts.disturbance)
