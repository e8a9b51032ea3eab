"""Low-rank factorization: one convolution becomes a chain of thin ones, where that is really cheaper."""

from collections import Counter
from collections.abc import Set
from typing import Annotated

from pydantic import Field
from torch import nn

from rescompress import cost, graph, progress
from rescompress.context import Context
from rescompress.errors import InputRefused
from rescompress.factorization.chain import Factor, chain, find_convolutions
from rescompress.factorization.ranks import Ranks
from rescompress.knobs import Choice, Folder, checked

__all__ = ["Factor", "Ranks", "chain", "factorize", "find_convolutions"]

METHODS = Folder("rescompress.factorization.methods", "split")


@checked
def factorize(
    model: nn.Module,
    ctx: Context,
    *,
    method: Annotated[Choice, METHODS] = "spatial_svd",
    energy: Annotated[float, Field(gt=0, le=1)] = 0.9,
    round_to: Annotated[int, Field(ge=1, le=128)] = 16,
) -> nn.Module:
    """Replace each convolution by a chain of thin ones, where the chain has fewer MACs.

    The chain bears the convolution's name. The classifier stays as it is, and so does any convolution that has groups,
    or another padding than zeros, or that stands in such a chain already.

    Args:
        model: a float model; it is not edited.
        ctx: not needed by this stage.
        method: how a convolution is split.
        energy: share of each weight's squared singular values that the chain keeps at least; 1 loses nothing.
        round_to: ranks are rounded up to a multiple of this, as runtimes like them.

    Raises:
        InputRefused: there is no convolution to split, or none gets cheaper, or a weight is no number.
    """
    names, kept = find_convolutions(model)
    if not names:
        raise InputRefused("No convolution of this model can be factorized.", "Factorize a float model, and only once.")
    factorized = graph.clone(model)
    whole = {name: _convolution(factorized, name) for name in names}
    split, ranks = METHODS.bind(method), Ranks(energy, round_to)
    for name, conv in progress.track(whole.items(), "factorize", len(whole)):
        _put(factorized, name, chain(conv, split(conv, ranks)))
    before, after = _macs(model, whole.keys()), _macs(factorized, whole.keys())
    dear = [name for name in names if after[name] >= before[name]]
    if len(dear) == len(names):
        raise InputRefused("No layer gets cheaper at this rank.", "Lower energy, or round_to.")
    for name in dear:
        _put(factorized, name, whole[name])
    _tell(len(names) - len(dear), kept + Counter({"no cheaper": len(dear)}))
    return factorized


def _convolution(model: nn.Module, name: str) -> nn.Conv2d:
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    if not conv.weight.isfinite().all():
        raise InputRefused(f"{name} holds NaN or infinite weights.", "Go back to a checkpoint from before.")
    return conv


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def _macs(model: nn.Module, names: Set[str]) -> Counter[str]:
    """MACs by these names, each of a convolution or of the chain in its place, over all of its runs."""
    macs, modules = Counter[str](), dict(model.named_modules())
    for layer in cost.layer_costs(model):
        # A module that runs again has its runs counted in its name.
        path = layer.layer if layer.layer in modules else layer.layer.rpartition("_")[0]
        macs[path if path in names else path.rpartition(".")[0]] += layer.macs
    return macs


def _tell(split: int, kept: Counter[str]) -> None:
    """One sentence for all layers."""
    said = f"factorize: {split} of {split + kept.total()} convolutions are split"
    reasons = ", ".join(f"{count} {why}" for why, count in kept.items())
    progress.note(f"{said}; the others stay: {reasons}." if reasons else f"{said}.")
