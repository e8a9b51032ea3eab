"""Where a ResNet comes from: one file per family, each satisfying the same Protocol."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress import catalog
from rescompress.errors import InputRefused, RecipeError
from rescompress.graph import evaluating
from rescompress.knobs import check
from rescompress.models import _hub
from rescompress.models._undrawn import Undrawn
from rescompress.spec import IMAGENET, ModelSpec, Output, Preprocessing

PACKAGE = "rescompress.models"
COUNTER = "num_batches_tracked"
"""BatchNorm's count of training steps, which old checkpoints lack and nothing here reads."""


@dataclass(frozen=True)
class Stock:
    """What one knows of an architecture before it is built.

    Attributes:
        preprocessing: how its makers prepare images.
        output: ``logits`` of a classifier, or feature or class ``maps``, which have no label to be judged by.
    """

    preprocessing: Preprocessing = IMAGENET
    output: Output = "logits"


State = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]
"""The tensors of a state dict by name, without their values."""
Guess = tuple[str, int, dict[str, Any]]
"""Architecture, classes and arguments of a network."""


@runtime_checkable
class Family(Protocol):
    """What each file of this folder offers."""

    ARCHITECTURES: Mapping[str, Stock]

    def build(self, architecture: str, classes: int, **arguments: Any) -> nn.Module:
        """The stock network with random weights."""
        ...

    def guess(self, shapes: Shapes) -> Iterable[Guess]:
        """The few networks of the family whose tensors these may be; building one shows whether it fits."""
        ...

    def adopt(self, state: State) -> dict[str, Tensor]:
        """A public checkpoint's tensors under the family's own names and in its own layout."""
        ...


@runtime_checkable
class Configured(Protocol):
    """What a family whose models come with a ``config.json`` offers too."""

    def configured(self, config: Mapping[str, Any], images: Mapping[str, Any]) -> ModelSpec | None:
        """The network that a configuration describes; None where it is another family's."""
        ...


@runtime_checkable
class Publisher(Protocol):
    """What a family whose makers publish weights by name offers too."""

    def fetch(self, name: str) -> tuple[Path, ModelSpec]:
        """The downloaded file, its hash checked, and the network that it belongs to."""
        ...


def family(name: str) -> Family:
    """A family by its file's name.

    Raises:
        RecipeError: there is no such family.
    """
    return cast(Family, catalog.load(PACKAGE, name))


def spec(name: str, architecture: str, classes: int, **arguments: Any) -> ModelSpec:
    """Describe a stock network with its makers' own preprocessing.

    Raises:
        RecipeError: the family doesn't know the architecture, or an argument.
    """
    maker = family(name)
    if architecture not in maker.ARCHITECTURES:
        raise RecipeError(
            f"The family {name} has no '{architecture}'.", catalog.suggest(architecture, tuple(maker.ARCHITECTURES))
        )
    stock = maker.ARCHITECTURES[architecture]
    check(maker.build, arguments, name)
    return ModelSpec(name, architecture, classes, stock.preprocessing, arguments, stock.output)


def built_by(function: str, classes: int, **keywords: Any) -> ModelSpec:
    """Describe a network of your own, and let the function that builds it run.

    Args:
        function: ``package.module:function``, looked for in the working directory too. It gives back the module; it is
            handed ``classes`` or ``num_classes`` where it has such a parameter.
        classes: outputs of the classifier; 0 where there is none.
        keywords: further arguments of the function.

    Raises:
        RecipeError: there is no such function.
    """
    cast(Any, family("builder")).allow(function)
    described = spec("builder", function, classes, **({"keywords": keywords} if keywords else {}))
    return described if classes else replace(described, output="maps")


def classes_in(state: State, name: str, architecture: str) -> int:
    """Outputs of the classifier in a state dict that is under the family's own names."""
    guessed = {guess[0]: guess[1] for guess in family(name).guess(_countless(state))}
    if architecture in guessed:
        return guessed[architecture]
    last = [tensor for tensor in state.values() if tensor.dim() > 1]
    return len(last[-1]) if last else 0


def build(spec: ModelSpec, seed: int = 0) -> nn.Module:
    """The stock network with random weights drawn from the seed; PyTorch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return describe(_plain(spec), spec)


def build_empty(spec: ModelSpec) -> nn.Module:
    """The stock network in eval mode with memory for its weights, whatever lies there, until they are loaded.

    A function of your own runs as it is: it may draw what no file holds.
    """
    if spec.family == "builder":
        return build(spec).eval()
    with torch.random.fork_rng(devices=[]), Undrawn():
        return describe(_plain(spec), spec).eval()


def outline(spec: ModelSpec) -> nn.Module:
    """The stock network without memory for its weights: names, kinds and shapes of its layers."""
    with torch.device("meta"), Undrawn():
        return _plain(spec)


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
    for name in catalog.names(PACKAGE):
        maker = family(name)
        shapes = _countless(maker.adopt(state))
        for architecture, classes, arguments in maker.guess(shapes):
            found = spec(name, architecture, classes, **arguments)
            if shapes == _shapes(found):
                return found
    raise InputRefused(
        "The checkpoint's tensors fit no network that rescompress knows.",
        f"Name it with --family and --architecture; families: {', '.join(catalog.names(PACKAGE))}.",
    )


def fetch(place: str) -> tuple[Path, ModelSpec | None]:
    """A checkpoint in its makers' directory layout, or on the network, and the network that it belongs to.

    Args:
        place: a directory with ``config.json`` and ``model.safetensors``, ``hf://OWNER/NAME`` of such a one, or
            ``FAMILY://…`` where the family's makers publish weights under a name.

    Raises:
        InputRefused: there is nothing there, or it is of another kind.
    """
    scheme, _, rest = place.partition("://")
    if not rest or scheme == "hf":
        file, config, images = _hub.find(place)
        return file, _configured(place, config, images)
    maker: object = family(scheme) if scheme in catalog.names(PACKAGE) else None
    if not isinstance(maker, Publisher):
        raise InputRefused(f"{place} is no place of weights.", "Places begin with hf:// or torchvision://.")
    return maker.fetch(rest)


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[Float[Tensor, "_ 3 h w"]]) -> Float[Tensor, "n k"]:
    """Answers of a model in eval mode, gathered on the CPU: its logits, or all its maps in one row an image."""
    device = next(model.parameters()).device
    with evaluating(model):
        return torch.cat([in_rows(model(images.to(device))).float().cpu() for images in batches])


def in_rows(output: Tensor | Sequence[Tensor]) -> Float[Tensor, "n k"]:
    """One row an image of whatever a model gives back."""
    parts = [output] if isinstance(output, Tensor) else output
    return torch.cat([part.flatten(1) for part in parts], 1)


def _plain(spec: ModelSpec) -> nn.Module:
    """The stock network on the current device, random as it comes and without its spec."""
    return family(spec.family).build(spec.architecture, spec.classes, **spec.arguments)


def _configured(place: str, config: Mapping[str, Any], images: Mapping[str, Any]) -> ModelSpec | None:
    """The network that a configuration describes, built once without weights to see that it can be."""
    try:
        made = [maker.configured(config, images) for maker in _families() if isinstance(maker, Configured)]
        found = next((spec for spec in made if spec is not None), None)
        if found is not None:
            spec(found.family, found.architecture, found.classes, **found.arguments)
            _shapes(found)
    except InputRefused:
        raise
    except Exception as error:  # whatever its makers' code raises at values of any type
        first = str(error).strip().partition("\n")[0].rstrip(".:")
        raise InputRefused(
            f"The configuration in {place} describes no network that can be built: {first[:200]}.",
            "Download it again, or correct its config.json.",
        ) from None
    return found


def _shapes(spec: ModelSpec) -> Shapes:
    return _countless(outline(spec).state_dict())


def _families() -> list[Family]:
    return [family(name) for name in catalog.names(PACKAGE)]


def _countless(state: State) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(COUNTER)}
