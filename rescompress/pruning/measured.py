"""A predicted latency against the clock: whole models are timed, and the plan is corrected by what they show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from rescompress import progress
from rescompress.errors import RecipeError
from rescompress.pruning.goals import Goal
from rescompress.pruning.planner import Planned, Planner
from rescompress.pruning.surgery import cut_channels

ROUNDS, NEAR, TOLERATED = 3, 0.05, 0.10
"""Plans that are timed at most; distance from the goal at which no further one is tried, and that may remain."""
Clock = Callable[[Sequence[nn.Module]], Sequence[float]]
"""Seconds of each of several whole models, timed interleaved."""


@dataclass(frozen=True)
class _Timed:
    planned: Planned
    measured: float


def corrected(whole: nn.Module, model: nn.Module, planner: Planner, goal: Goal, clock: Clock) -> Planned:
    """The plan whose network, timed as a whole, comes closest to the latency that is wanted.

    The table leaves out what is no layer of its own (additions, the runtime's overhead). So where the measured ratio is
    off by more than 5 %, the goal is corrected by the observed factor, and planned again from the same model.

    Args:
        whole: the network before any cut.
        model: the one that is cut.
        planner: of the model.
        goal: the latency that may remain.
        clock: times whole models.

    Raises:
        RecipeError: the goal can't be met within 10 %.
    """
    found: list[_Timed] = []
    aim = goal.share
    for _ in range(ROUNDS):
        planned = _lowest_at(planner, Goal("latency", aim), first=not found)
        if any(planned.cuts == each.planned.cuts for each in found):
            break
        before, after = clock([whole, cut_channels(model, planned.cuts)])
        found.append(_Timed(planned, after / before))
        progress.note(
            f"prune: latency {planned.share:.3f} predicted, {after / before:.3f} measured on the whole model."
        )
        if abs(found[-1].measured / goal.share - 1) <= NEAR:
            break
        aim = min(goal.share * planned.share / found[-1].measured, 0.999)
    closest = min(found, key=lambda each: abs(each.measured / goal.share - 1))
    if closest.measured > goal.share * (1 + TOLERATED):
        raise RecipeError(
            f"latency {goal.share:g} can't be met: the closest network that was timed has {closest.measured:.2g}.",
            "Raise latency, or lower round_to.",
        )
    return closest.planned


def _lowest_at(planner: Planner, goal: Goal, *, first: bool) -> Planned:
    """A plan for the goal; behind a correction the fastest there is, should the goal lie below it."""
    try:
        return planner.plan(goal)
    except RecipeError:
        if first:
            raise
        return planner.fastest()
