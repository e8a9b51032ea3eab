"""A chain takes a convolution's place only where it is really cheaper: in MACs, or in seconds on a target."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rescompress.benchmarking.estimators import estimator
from rescompress.benchmarking.layers import LayerShape, Target
from rescompress.factorization import prices
from rescompress.factorization.prices import Price, Runs

MARGIN = 0.03
"""By how much predicted time must fall at least: less is within the error of measuring."""


@dataclass(frozen=True)
class Gate:
    """What a chain must cost less of.

    Attributes:
        most: a chain is refused from this share of the whole convolution's cost on.
        unit: what is counted, for messages.
        price: what one run of a layer costs.
        prepare: is told all shapes before any is asked for; None where nothing need be known ahead.
    """

    most: float
    unit: str
    price: Price
    prepare: Callable[[Iterable[LayerShape]], None] | None = None

    def refused(self, runs: Mapping[str, Runs], chains: Mapping[str, Runs]) -> dict[str, str]:
        """The layers whose chains don't pass, each with the reason.

        Args:
            runs: of the whole convolutions.
            chains: of what would take their places.
        """
        if self.prepare is not None:
            self.prepare(dict.fromkeys(shape for name in chains for shape in runs[name] + chains[name]))
        costs = prices.relative(self.price, runs, chains)
        return {name: self._why(cost) for name, cost in costs.items() if not cost < self.most}

    def _why(self, cost: float) -> str:
        return f"{cost:.2f}x {self.unit}" if cost < float("inf") else "never runs"


def by_macs() -> Gate:
    """The gate that counts multiply-accumulates."""
    return Gate(1.0, "the MACs", prices.macs)


def by_latency(target: Target) -> Gate:
    """The gate that predicts each chain's latency as the sum of its links'."""
    found = estimator(target)
    return Gate(1 - MARGIN, f"the time on {found.name}", found.seconds, found.prepare)
