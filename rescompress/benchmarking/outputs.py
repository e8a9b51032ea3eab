"""Do the timed processes compute what was verified, and the same in each launch?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rescompress import verified
from rescompress.benchmarking.candidates import COPY, Candidates
from rescompress.benchmarking.method import Launch


@dataclass(frozen=True)
class Outputs:
    """What was found wrong, and what could not be compared; names of candidates.

    Attributes:
        changed: their outputs changed from one launch to another.
        departed: their outputs are not those that were verified.
        unverified: why there was nothing to compare with, by name.
    """

    changed: tuple[str, ...] = ()
    departed: tuple[str, ...] = ()
    unverified: dict[str, str] = field(default_factory=dict)


def compared(candidates: Candidates, done: Sequence[Launch]) -> Outputs:
    """Compare each launch's outputs with the first launch's, and with those that verification kept.

    Args:
        candidates: who took part.
        done: what each launch showed.
    """
    numbered = list(enumerate(candidates.names))
    return Outputs(
        changed=tuple(name for i, name in numbered if _changed(candidates, done, i)),
        departed=tuple(name for i, name in numbered if _departed(candidates, done, i)),
        unverified=dict(_unverified(candidates, done)),
    )


def _changed(candidates: Candidates, done: Sequence[Launch], i: int) -> bool:
    first, artifact = done[0].outputs[i], candidates.artifacts[i]
    return any(verified.apart(first, one.outputs[i], artifact) for one in done[1:])


def _departed(candidates: Candidates, done: Sequence[Launch], i: int) -> bool:
    artifact = candidates.artifacts[i]
    found = verified.kept(artifact)
    if found is None or _hindrance(candidates, done, i):
        return False
    count = verified.seen_again(found, candidates.rings[i])
    return any(verified.departs(found, artifact, one.outputs[i][:count]) for one in done)


def _unverified(candidates: Candidates, done: Sequence[Launch]) -> Iterator[tuple[str, str]]:
    for i, name in enumerate(candidates.names):
        why = _hindrance(candidates, done, i)
        if why and not name.endswith(COPY):
            yield name, why


def _hindrance(candidates: Candidates, done: Sequence[Launch], i: int) -> str:
    """Why a candidate's outputs can't be compared with verified ones; empty where they can."""
    found = verified.kept(candidates.artifacts[i])
    if found is None:
        return "it was not verified here"
    if not all(one.outputs[i].size for one in done):
        return "what timed it shows no outputs"
    if not found.alone:
        return "its answers depend on the other images of a batch"
    if not verified.seen_again(found, candidates.rings[i]):
        return "it was verified on other images"
    return ""
