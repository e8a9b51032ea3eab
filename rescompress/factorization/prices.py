"""What a convolution and the chain in its place would cost: in MACs, or in predicted seconds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from rescompress.benchmarking.layers import LayerShape, shapes_of
from rescompress.factorization.chain import Factor

Runs = tuple[LayerShape, ...]
Price = Callable[[LayerShape], float]


def runs_of(model: nn.Module, names: Iterable[str]) -> dict[str, Runs]:
    """The shapes in which each of these convolutions runs: one, unless it runs again; none, if it never does."""
    modules, wanted = dict(model.named_modules()), set(names)
    found: dict[str, Runs] = dict.fromkeys(names, ())
    for run, shape in shapes_of(model).items():
        # A module that runs again has its runs counted in its name.
        name = run if run in modules else run.rpartition("_")[0]
        if name in wanted:
            found[name] += (shape,)
    return found


def links(factors: Sequence[Factor], runs: Runs) -> Runs:
    """The shapes in which a chain runs that takes the place of a convolution with these runs."""
    made: list[LayerShape] = []
    for run in runs:
        height, width = run.height, run.width
        for f in factors:
            o, i, kh, kw = f.weight.shape
            channels, moves = (i * f.groups, o), ((kh, kw), f.stride, f.pads(), f.dilation)
            made.append(LayerShape("conv", *channels, *moves, f.groups, height, width))
            height, width = made[-1].output_size
        made[-1] = replace(made[-1], added=run.added)
    return tuple(made)


def macs(shape: LayerShape) -> float:
    """Multiply-accumulates for one image."""
    return float(shape.macs)


def total(price: Price, shapes: Iterable[LayerShape]) -> float:
    """What all of them cost together."""
    return float(sum(price(shape) for shape in shapes))


def relative(price: Price, runs: Mapping[str, Runs], chains: Mapping[str, Runs]) -> dict[str, float]:
    """Per layer: the chain's cost as a share of the whole convolution's; infinite where that never runs."""
    return {
        name: total(price, chains[name]) / total(price, runs[name]) if runs[name] else float("inf") for name in chains
    }
