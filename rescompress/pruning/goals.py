"""What is wanted of a cut: a share of the channels gone, or a share of the cost left."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rescompress.errors import RecipeError

Kind = Literal["ratio", "macs", "params", "bytes", "latency"]
KINDS: tuple[Kind, ...] = ("ratio", "macs", "params", "bytes", "latency")
DEFAULT_RATIO = 0.3
OF_CHANNELS = {"importance": "l1", "ranking": "local", "round_to": 16, "most": 0.9}
"""Knobs that speak of channels, and what they are unless somebody turns them."""


@dataclass(frozen=True)
class Goal:
    """One target.

    Attributes:
        kind: what is counted.
        share: of the channels that leave if it is a ratio; else of the whole network's cost that may remain.
    """

    kind: Kind
    share: float

    @property
    def remains(self) -> float:
        """Share of the cost that may remain; of a ratio: of the channels."""
        return 1 - self.share if self.kind == "ratio" else self.share

    def after(self, cut: int, cuts: int) -> "Goal":
        """The goal of one of several cuts, which take equal shares."""
        done = cut / cuts
        return Goal(self.kind, self.share * done if self.kind == "ratio" else 1 - (1 - self.share) * done)


def goal_of(knobs: Mapping[str, Any]) -> Goal:
    """The one target among the knobs of ``prune``; a ratio of 0.3 where there is none.

    Raises:
        RecipeError: there are two.
    """
    given = [Goal(kind, knobs[kind]) for kind in KINDS if knobs.get(kind) is not None]
    if len(given) > 1:
        told = " and ".join(f"{goal.kind} {goal.share:g}" for goal in given)
        raise RecipeError(f"prune has {len(given)} targets: {told}.", "Keep one of them.")
    return given[0] if given else Goal("ratio", DEFAULT_RATIO)


def agree(knobs: Mapping[str, Any]) -> None:
    """Refuse knobs of ``prune`` that contradict each other.

    Raises:
        RecipeError: they do.
    """
    goal_of(knobs)
    if knobs["unit"] == "blocks":
        turned = [name for name, default in OF_CHANNELS.items() if knobs[name] not in (default, {default: {}})]
        turned += ["sparsity"] if knobs["sparsity"].penalty != "none" else []
        if turned:
            raise RecipeError(f"prune: {turned[0]} speaks of channels, and unit is blocks.", f"Leave {turned[0]} out.")
    if knobs["between"] is not None and knobs["steps"] == 1:
        raise RecipeError("prune: between trains between two cuts, but there is one.", "Set steps, or use fit behind.")


def unmet(goal: Goal, least: float) -> RecipeError:
    """The refusal of a target below what the cheapest network costs.

    Args:
        goal: what was wanted.
        least: share of the cost (of a ratio: of the channels) that the cheapest network on the grid keeps.
    """
    if goal.kind == "ratio":
        return RecipeError(
            f"ratio {goal.share:g} can't be met: on this grid at most {1 - least:.2g} of the channels can leave.",
            "Lower ratio or round_to, or raise most.",
        )
    return RecipeError(
        f"{goal.kind} {goal.share:g} can't be met: the cheapest network on this grid has {least:.2g}.",
        f"Raise {goal.kind}, or lower round_to.",
    )
