"""Which convolutions are split, and at which ranks: by a rule for each, or for all of them under one budget."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rescompress.errors import InputRefused
from rescompress.factorization import prices
from rescompress.factorization.budget import fit, options
from rescompress.factorization.gate import Gate
from rescompress.factorization.prices import Runs
from rescompress.factorization.ranks import Ranks
from rescompress.factorization.split import Split


@dataclass(frozen=True)
class Chosen:
    """What becomes of each convolution that could be split.

    Attributes:
        ranks: of those that are.
        refused: those that the gate keeps whole, each with the reason.
        spared: those that needn't be split.
    """

    ranks: dict[str, tuple[int, ...]]
    refused: dict[str, str]
    spared: tuple[str, ...] = ()


def by_rule(splits: Mapping[str, Split], runs: Mapping[str, Runs], gate: Gate, rule: Ranks) -> Chosen:
    """Each convolution for itself.

    Args:
        splits: of each convolution.
        runs: of each convolution.
        gate: what must fall.
        rule: from spectra to ranks.
    """
    ranks = {name: split.ranks(rule) for name, split in splits.items()}
    refused = gate.refused(runs, _chains(splits, runs, ranks))
    return Chosen({name: some for name, some in ranks.items() if name not in refused}, refused)


def by_budget(
    splits: Mapping[str, Split], runs: Mapping[str, Runs], gate: Gate, budget: float, macs: int, round_to: int
) -> Chosen:
    """All together; what the gate refuses stays whole from then on, and the others make up for it.

    Args:
        splits: of each convolution.
        runs: of each convolution.
        gate: what must fall.
        budget: share of the model's MACs that may remain.
        macs: the model's.
        round_to: what ranks are multiples of.

    Raises:
        InputRefused: the budget can't be met.
    """
    layers = {name: options(split, runs[name], round_to) for name, split in splits.items()}
    fixed = macs - sum(some[0].macs for some in layers.values())
    refused: dict[str, str] = {}
    while True:
        chosen = fit(layers, budget * macs - fixed)
        if chosen is None:
            least = (fixed + sum(min(one.macs for one in some) for some in layers.values())) / macs
            raise _unmet(budget, least, refused)
        ranks = {name: one.ranks for name, one in chosen.items() if one.ranks is not None}
        new = gate.refused(runs, _chains(splits, runs, ranks))
        if not new:
            spared = [name for name in layers if name not in ranks and name not in refused]
            return Chosen(ranks, refused, tuple(spared))
        refused |= new
        layers |= {name: layers[name][:1] for name in new}


def _unmet(budget: float, least: float, refused: Iterable[str]) -> InputRefused:
    kept = len(list(refused))
    said = f", as {kept} layers get no cheaper" if kept else ""
    return InputRefused(
        f"The MACs can't fall to {budget:.1%}: at least {least:.1%} remain{said}.",
        "Raise budget, lower round_to, or split by another method.",
    )


def _chains(
    splits: Mapping[str, Split], runs: Mapping[str, Runs], ranks: Mapping[str, tuple[int, ...]]
) -> dict[str, Runs]:
    return {name: prices.links(splits[name].outline(some), runs[name]) for name, some in ranks.items()}
