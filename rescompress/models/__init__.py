"""Where a ResNet comes from: one file per family, each satisfying the same Protocol."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress import catalog
from rescompress.errors import InputRefused, RecipeError
from rescompress.graph import evaluating
from rescompress.knobs import check
from rescompress.spec import ModelSpec, Preprocessing

PACKAGE = "rescompress.models"
COUNTER = "num_batches_tracked"
"""BatchNorm's count of training steps, which old checkpoints lack and nothing here reads."""


@runtime_checkable
class Family(Protocol):
    """What each file of this folder offers."""

    ARCHITECTURES: tuple[str, ...]
    PREPROCESSING: Preprocessing

    def build(self, architecture: str, classes: int, **arguments: Any) -> nn.Module:
        """The stock network with random weights."""
        ...

    def rename(self, name: str) -> str:
        """The family's own name of a tensor, for the names that public checkpoints use."""
        ...


def family(name: str) -> Family:
    """A family by its file's name.

    Raises:
        RecipeError: there is no such family.
    """
    return cast(Family, catalog.load(PACKAGE, name))


def spec(name: str, architecture: str, classes: int, **arguments: Any) -> ModelSpec:
    """Describe a stock network with its family's own preprocessing.

    Raises:
        RecipeError: the family doesn't know the architecture, or an argument.
    """
    maker = family(name)
    if architecture not in maker.ARCHITECTURES:
        raise RecipeError(
            f"The family {name} has no '{architecture}'.", catalog.suggest(architecture, maker.ARCHITECTURES)
        )
    check(maker.build, arguments, name)
    return ModelSpec(name, architecture, classes, maker.PREPROCESSING, arguments)


def build(spec: ModelSpec, seed: int = 0) -> nn.Module:
    """The stock network with random weights drawn from the seed; PyTorch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family(spec.family).build(spec.architecture, spec.classes, **spec.arguments)
    return describe(model, spec)


def describe(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """Let a module carry its spec, so that it can be saved, exported and measured."""
    if isinstance(model, torch.fx.GraphModule):
        model.meta["spec"] = spec
    else:
        model.__dict__["spec"] = spec
    return model


def spec_of(model: nn.Module) -> ModelSpec:
    """The spec that a model carries.

    Raises:
        InputRefused: the model was made elsewhere.
    """
    found = model.__dict__.get("spec") or getattr(model, "meta", {}).get("spec")
    if not isinstance(found, ModelSpec):
        raise InputRefused(
            f"This {type(model).__name__} doesn't say which stock network it is.",
            "Load it with rescompress.load, or name its spec with rescompress.models.describe(model, spec).",
        )
    return found


def infer(state: Mapping[str, Tensor]) -> ModelSpec:
    """Find the stock network whose tensors have these names and shapes.

    Raises:
        InputRefused: no known network fits.
    """
    last = [tensor for tensor in state.values() if tensor.dim() == 2]
    if not last:
        raise InputRefused("The checkpoint holds no classifier, so it is no ResNet.", "Give a ResNet's state dict.")
    classes = len(last[-1])
    for name in catalog.names(PACKAGE):
        maker = family(name)
        shapes = {maker.rename(key): tuple(t.shape) for key, t in state.items() if not key.endswith(COUNTER)}
        for architecture, arguments in _candidates(maker):
            if shapes == _shapes(maker, architecture, classes, arguments):
                return ModelSpec(name, architecture, classes, maker.PREPROCESSING, arguments)
    raise InputRefused(
        "The checkpoint's tensors fit no network that rescompress knows.",
        f"Name it with --family and --architecture; families: {', '.join(catalog.names(PACKAGE))}.",
    )


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[Float[Tensor, "_ 3 h w"]]) -> Float[Tensor, "n classes"]:
    """Logits of a model in eval mode, gathered on the CPU."""
    device = next(model.parameters()).device
    with evaluating(model):
        return torch.cat([model(images.to(device)).float().cpu() for images in batches])


def _candidates(maker: Family) -> list[tuple[str, dict[str, Any]]]:
    variants: tuple[dict[str, Any], ...] = getattr(maker, "VARIANTS", ({},))
    return [(architecture, variant) for architecture in maker.ARCHITECTURES for variant in variants]


def _shapes(maker: Family, architecture: str, classes: int, arguments: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        stock = maker.build(architecture, classes, **arguments)
    return {key: tuple(tensor.shape) for key, tensor in stock.state_dict().items() if not key.endswith(COUNTER)}
