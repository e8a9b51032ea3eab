"""Low-rank factorization: one convolution becomes a chain of thin ones, where that is really cheaper."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from rescompress import cost, graph, progress
from rescompress.benchmarking.layers import Target
from rescompress.context import Context
from rescompress.errors import InputRefused, RecipeError
from rescompress.factorization import gate as gates
from rescompress.factorization.chain import Factor, chain, find_convolutions
from rescompress.factorization.choice import Chosen, by_budget, by_rule
from rescompress.factorization.prices import runs_of
from rescompress.factorization.ranks import ByEnergy, ByNoise, Ranks
from rescompress.factorization.split import Split
from rescompress.knobs import Choice, Folder, checked
from rescompress.training import refresh_norms

__all__ = ["ByEnergy", "ByNoise", "Factor", "Ranks", "Split", "chain", "factorize", "find_convolutions"]

METHODS = Folder("rescompress.factorization.methods", "split")
DEFAULT_ENERGY, DEFAULT_TARGET = 0.9, Target()
EXACT = 1e-9
"""Share of a weight's energy whose loss is rounding."""
_TOLD = 8


@checked
def factorize(
    model: nn.Module,
    ctx: Context,
    *,
    method: Annotated[Choice, METHODS] = "spatial_svd",
    rank: Literal["energy", "budget", "evbmf"] = "energy",
    energy: Annotated[float, Field(gt=0, le=1)] = DEFAULT_ENERGY,
    budget: Annotated[float | None, Field(gt=0, lt=1)] = None,
    round_to: Annotated[int, Field(ge=1, le=128)] = 16,
    gate: Literal["macs", "latency"] = "macs",
    on: Target = DEFAULT_TARGET,
) -> nn.Module:
    """Replace each convolution by a chain of thin ones, where the chain has fewer MACs or is predicted to be faster.

    The chain bears the convolution's name. The classifier stays as it is, and so does any convolution that has groups,
    or another padding than zeros, or that stands in such a chain already. Where something is lost and there are images,
    BatchNorm's statistics are estimated anew.

    Args:
        model: a float model; it is not edited.
        ctx: where images come from, if there are any.
        method: how a convolution is split.
        rank: what ranks are read off; evbmf keeps what stands out of each weight's noise (Nakajima et al. 2013).
        energy: share of each weight's squared singular values that the chain keeps at least; 1 loses nothing.
        budget: share of the model's MACs that may remain; they fit it with the least energy lost in sum.
        round_to: ranks are rounded up to a multiple of this, as runtimes like them.
        gate: what must fall for a chain to be kept.
        on: where latency is told for the gate.

    Raises:
        RecipeError: knobs that contradict each other.
        InputRefused: there is no convolution to split, or none gets cheaper, or a weight is no number, or the budget
            can't be met.
    """
    _check(rank, energy, budget, gate, on)
    names, kept = find_convolutions(model)
    if not names:
        raise InputRefused("No convolution of this model can be factorized.", "Factorize a float model, and only once.")
    whole, split = {name: _convolution(model, name) for name in names}, METHODS.bind(method)
    splits: dict[str, Split] = {name: split(conv) for name, conv in progress.track(whole.items(), "factorize")}
    runs, judge = runs_of(model, names), gates.by_latency(on) if gate == "latency" else gates.by_macs()
    if budget is None:
        rule: Ranks = ByEnergy(energy, round_to) if rank == "energy" else ByNoise(round_to)
        chosen = by_rule(splits, runs, judge, rule)
    else:
        chosen = by_budget(splits, runs, judge, budget, cost.total_cost(model).macs, round_to)
    if not chosen.ranks:
        said = f"No layer gets cheaper at this rank: {_listed(chosen.refused)}."
        raise InputRefused(said, "Lower energy, or round_to, or split by another method.")
    factorized = graph.clone(model)
    for name, ranks in progress.track(chosen.ranks.items(), "split"):
        conv = _convolution(factorized, name)
        factorized.set_submodule(name, chain(conv, splits[name].at(ranks)))
    _tell(len(names), kept, chosen)
    exact = all(splits[name].lost(ranks) <= EXACT for name, ranks in chosen.ranks.items())
    return factorized if exact else refresh_norms(factorized, ctx)


def _check(rank: str, energy: float, budget: float | None, gate: str, on: Target) -> None:
    """Refuse a knob that would do nothing, and a rank that lacks its own."""
    if rank == "budget" and budget is None:
        raise RecipeError("factorize reads ranks off a budget that isn't given.", "Give budget: a share of the MACs.")
    if rank != "budget" and budget is not None:
        raise RecipeError(f"factorize has a budget, but reads ranks off {rank}.", "Write rank: budget, or no budget.")
    if rank != "energy" and energy != DEFAULT_ENERGY:
        raise RecipeError(f"factorize has an energy, but reads ranks off {rank}.", "Leave energy out.")
    if gate == "macs" and on != DEFAULT_TARGET:
        raise RecipeError("factorize knows where latency counts, but its gate is macs.", "Write gate: latency.")


def _convolution(model: nn.Module, name: str) -> nn.Conv2d:
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    if not conv.weight.isfinite().all():
        raise InputRefused(f"{name} holds NaN or infinite weights.", "Go back to a checkpoint from before.")
    return conv


def _tell(convolutions: int, kept: Counter[str], chosen: Chosen) -> None:
    """One sentence for all layers, and one for those that the gate refused."""
    why = kept + Counter({"no cheaper": len(chosen.refused), "spared by the budget": len(chosen.spared)})
    said = f"factorize: {len(chosen.ranks)} of {convolutions + kept.total()} convolutions are split"
    reasons = ", ".join(f"{count} {reason}" for reason, count in why.items())
    progress.note(f"{said}; the others stay: {reasons}." if reasons else f"{said}.")
    if chosen.refused:
        progress.note(f"factorize: kept whole, as a chain costs no less: {_listed(chosen.refused)}.")


def _listed(refused: Mapping[str, str]) -> str:
    """The first few layers with their reasons, and how many more."""
    told: Iterable[str] = [f"{name} ({why})" for name, why in list(refused.items())[:_TOLD]]
    more = len(refused) - _TOLD
    return ", ".join(told) + (f", and {more} more" if more > 0 else "")
