"""Small networks and images that the tests share. A test may read them; stages promise not to edit them."""

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, fx, nn

from rescompress import fakequant, graph, models
from rescompress.context import Context
from rescompress.data import Data, InMemory
from rescompress.fusion import fuse
from rescompress.placement import place
from rescompress.quantization import quantize
from rescompress.schemes import ONNXRUNTIME, QuantScheme
from rescompress.spec import ModelSpec, Precision, Preprocessing

P = ParamSpec("P")
T = TypeVar("T")
KINDS: dict[Precision, dict[str, Any]] = {
    "int8": {},
    "w4a8": {"weight_bits": 4},
    "dynamic": {"precision": "dynamic"},
    "w8": {"precision": "w8"},
    "w4": {"precision": "w4"},
}
"""How ``place`` is asked for each precision."""


def cached(make: Callable[P, T]) -> Callable[P, T]:
    """Make a network once per set of arguments, however they are written."""
    signature, made = inspect.signature(make), dict[str, T]()

    @functools.wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        key = repr(bound.arguments)
        if key not in made:
            made[key] = make(*args, **kwargs)
        return made[key]

    return call


@cached
def stock(family: str, architecture: str, classes: int = 10, *, side: int | None = None, **arguments: Any) -> nn.Module:
    """A network in eval mode whose BatchNorms all do something, for images of ``side`` pixels."""
    spec = models.spec(family, architecture, classes, **arguments)
    if side is not None:
        spec = replace(spec, preprocessing=replace(spec.preprocessing, resize=side, crop=side))
    return enliven(models.build(spec))


@cached
def fused(family: str, architecture: str, classes: int = 10, *, side: int | None = None, **arguments: Any) -> nn.Module:
    """The stock network with its BatchNorms folded."""
    return fuse(stock(family, architecture, classes, side=side, **arguments), Context())


@cached
def captured(
    family: str, architecture: str, classes: int = 10, *, side: int | None = None, **arguments: Any
) -> fx.GraphModule:
    """The graph of the fused network."""
    model = copy.deepcopy(fused(family, architecture, classes, side=side, **arguments))
    spec = models.spec_of(model)
    traced = graph.capture(model, spec.input_shape)
    models.describe(traced, spec)
    return traced


@cached
def quantized(
    family: str, architecture: str, classes: int = 10, *, side: int | None = None, **arguments: Any
) -> fx.GraphModule:
    """The fused network in INT8."""
    model = fused(family, architecture, classes, side=side, **arguments)
    made = quantize(model, context(classes, models.spec_of(model).preprocessing.crop))
    assert isinstance(made, fx.GraphModule)
    return made


def placed(
    kind: Precision,
    scheme: QuantScheme = ONNXRUNTIME,
    family: str = "cifar",
    architecture: str = "resnet8",
    side: int | None = None,
) -> fx.GraphModule:
    """A network of this precision whose scales cover noise, made without calibration."""
    model = graph.clone(captured(family, architecture, side=side))
    sites = place(model, scheme, **KINDS[kind])
    found = graph.values(model)
    fakequant.insert(model, sites)
    for site in sites:
        quantizer = fakequant.quantizer_of(model, site)
        if site.is_weight:
            rows = graph.tensor_of(model, found[site.value]).detach().flatten(1)
            quantizer.scale.copy_(rows.abs().amax(1).clamp(min=1e-6) / site.limits[1])
        elif not site.dynamic:
            low, high = site.limits
            middle = low if graph.op_of(found[site.value]) == "relu" else (low + high) // 2
            quantizer.scale.fill_(1 / 16)
            quantizer.zero_point.fill_(0 if site.symmetric else middle)
    return model


def enliven(model: nn.Module, seed: int = 0) -> nn.Module:
    """Set each BatchNorm's scale and shift at random, its statistics near those of noise; give back in eval mode.

    The statistics come last: behind a scale that starts at zero, as timm's do, nothing could be measured.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.3, generator=generator)
        model.train()(torch.randn(4, 3, 64, 64, generator=generator))
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean += 0.1 * torch.randn(norm.num_features, generator=generator)
            norm.running_var *= 0.8 + 0.4 * torch.rand(norm.num_features, generator=generator)
    return model.eval()


def custom(model: nn.Module, side: int = 8, classes: int = 3) -> nn.Module:
    """Let a test's own module say which images it takes."""
    preprocessing = Preprocessing(side, side, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return models.describe(model.eval(), ModelSpec("none", "none", classes, preprocessing))


def noise(model: nn.Module, count: int = 2, side: int | None = None, seed: int = 1) -> Tensor:
    """Normalized images for a model."""
    shape = models.spec_of(model).input_shape if side is None else (3, side, side)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def context(classes: int = 10, side: int = 32, count: int = 32, seed: int = 0) -> Context:
    """Noisy images, each class in a colour of its own, the same in all three splits."""
    generator = torch.Generator().manual_seed(7)
    colours = torch.randint(30, 226, (classes, 3, 1, 1), generator=generator)
    labels = torch.arange(count) % classes
    pixels = colours[labels] + torch.randint(-30, 30, (count, 3, side, side), generator=generator)
    split = InMemory(pixels.to(torch.uint8), labels)
    return Context(Data("toy", tuple(f"class {k}" for k in range(classes)), split, split, split, "toy"), seed)


def snapshot(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Everything of a model that a stage might edit: tensors to the bit, modes, shapes that layers know of."""
    tensors = {
        name: (tensor.clone(), tensor.requires_grad) for name, tensor in model.state_dict(keep_vars=True).items()
    }
    modules = {name: (repr(module), module.training) for name, module in model.named_modules()}
    return {"tensors": tuple(tensors.items()), "modules": tuple(modules.items())}


def same(before: dict[str, tuple[Any, ...]], after: dict[str, tuple[Any, ...]]) -> bool:
    """Whether two snapshots are equal to the bit."""
    if before["modules"] != after["modules"] or len(before["tensors"]) != len(after["tensors"]):
        return False
    pairs = zip(before["tensors"], after["tensors"], strict=True)
    return all(
        one[0] == other[0] and torch.equal(one[1][0], other[1][0]) and one[1][1] == other[1][1] for one, other in pairs
    )
