"""Which layers to split how thin so that the MACs fit a budget with the least energy lost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rescompress.factorization import prices
from rescompress.factorization.prices import Runs
from rescompress.factorization.ranks import ByEnergy
from rescompress.factorization.split import Split

_STEPS = 100
UNITS = 20_000
"""Parts of the room that MACs are counted in."""


@dataclass(frozen=True)
class Option:
    """One thing to do with a layer.

    Attributes:
        macs: of the layer.
        lost: share of its weight's energy that is lost.
        ranks: of the chain; None leaves the layer whole.
    """

    macs: float
    lost: float
    ranks: tuple[int, ...] | None = None


def options(split: Split, runs: Runs, round_to: int) -> list[Option]:
    """The whole layer, then every chain that is cheaper than it, at energies from 1 to 0.01."""
    whole = prices.total(prices.macs, runs)
    found = [Option(whole, 0.0)]
    tried = {split.ranks(ByEnergy(1 - step / _STEPS, round_to)): None for step in range(_STEPS)}
    for ranks in tried:
        macs = prices.total(prices.macs, prices.links(split.outline(ranks), runs))
        if macs < whole:
            found.append(Option(macs, split.lost(ranks), ranks))
    return found


def fit(layers: Mapping[str, Sequence[Option]], room: float) -> dict[str, Option] | None:
    """An option for each layer whose MACs together fit the room, with the least energy lost in sum.

    This is a knapsack with one choice of each kind, solved by dynamic programming (Dudzinski and Walukiewicz 1987) over
    the room in ``UNITS`` parts. MACs are rounded up to these, so that what fits does fit.

    Returns:
        The options, or None where even the cheapest of all don't fit.
    """
    cheapest = {name: min(some, key=lambda one: (one.macs, one.lost)) for name, some in layers.items()}
    if sum(one.macs for one in cheapest.values()) > room:
        return None
    least, taken = np.zeros(UNITS + 1), []
    for some in layers.values():
        sizes = [math.ceil(one.macs / room * UNITS - 1e-9) for one in some]
        table = np.full((len(some), UNITS + 1), np.inf)
        for k, (one, size) in enumerate(zip(some, sizes, strict=True)):
            if size <= UNITS:
                table[k, size:] = least[: UNITS + 1 - size] + one.lost
        least = table.min(0)
        taken.append((table.argmin(0), sizes))
    if not np.isfinite(least[-1]):
        return cheapest  # it fits, but not after rounding
    left, chosen = UNITS, dict[str, Option]()
    for (name, some), (best, sizes) in zip(reversed(list(layers.items())), reversed(taken), strict=True):
        k = int(best[left])
        chosen[name], left = some[k], left - sizes[k]
    return {name: chosen[name] for name in layers}
