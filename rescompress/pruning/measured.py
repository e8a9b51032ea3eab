"""A predicted latency against the clock: whole models are timed, and the plan is corrected by what they show."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from torch import nn

from rescompress import progress
from rescompress.errors import RecipeError
from rescompress.pruning.goals import Goal
from rescompress.pruning.planner import Origin

ROUNDS, NEAR, TOLERATED = 3, 0.05, 0.10
"""Plans that are timed at most; distance from the goal at which no further one is tried, and that may remain."""
Clock = Callable[[Sequence[nn.Module]], Sequence[float]]
"""Seconds of each of several whole models, timed interleaved."""


@runtime_checkable
class Plan(Protocol):
    """What leaves, and the share of the original cost that should stay."""

    @property
    def share(self) -> float:
        """Of the cost before any cut."""
        ...


P = TypeVar("P", bound=Plan)


@runtime_checkable
class Plans(Protocol[P]):
    """Whoever plans cuts of one model, of channels or of blocks."""

    origin: Origin

    def check(self, goal: Goal) -> None:
        """Refuse a goal that can't be met, before anything is cut or trained."""
        ...

    def plan(self, goal: Goal) -> P:
        """What to cut for a goal."""
        ...

    def fastest(self) -> P:
        """What to cut for the least latency there is."""
        ...

    def cut(self, planned: P) -> nn.Module:
        """The model without that."""
        ...


def corrected(whole: nn.Module, planner: Plans[P], goal: Goal, clock: Clock) -> P:
    """The plan whose network, timed as a whole, comes closest to the latency that is wanted.

    The table leaves out what is no layer of its own (additions, the runtime's overhead). So where the measured ratio is
    off by more than 5 %, the goal is corrected by the observed factor, and planned again from the same model.

    Args:
        whole: the network before any cut.
        planner: of the model that is cut.
        goal: the latency that may remain.
        clock: times whole models.

    Raises:
        RecipeError: the goal can't be met within 10 %.
    """
    found: list[tuple[P, float]] = []
    aim = goal.share
    for _ in range(ROUNDS):
        planned = _lowest_at(planner, Goal("latency", aim), first=not found)
        if any(planned == other for other, _ in found):
            break
        before, after = clock([whole, planner.cut(planned)])
        measured = after / before
        found.append((planned, measured))
        progress.note(f"prune: latency {planned.share:.3f} predicted, {measured:.3f} measured on the whole model.")
        if abs(measured / goal.share - 1) <= NEAR:
            break
        aim = min(goal.share * planned.share / measured, 0.999)
    closest, measured = min(found, key=lambda each: abs(each[1] / goal.share - 1))
    if measured > goal.share * (1 + TOLERATED):
        raise RecipeError(
            f"latency {goal.share:g} can't be met: the closest network that was timed has {measured:.2g}.",
            "Raise latency, or lower round_to where channels leave.",
        )
    return closest


def _lowest_at(planner: Plans[P], goal: Goal, *, first: bool) -> P:
    """A plan for the goal; behind a correction the fastest there is, should the goal lie below it."""
    try:
        return planner.plan(goal)
    except RecipeError:
        if first:
            raise
        return planner.fastest()
