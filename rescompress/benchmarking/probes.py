"""Small graphs whose latencies, one less the other, give the time that a layer takes inside a network.

A layer alone pays for what a network pays once: the call, the copies, the runtime's change of layout or integer type
at both ends. So it is timed between two depthwise 1 x 1 convolutions, ``t(before, layer, behind)``, and what these take
without it, ``(t(before, before) + t(behind, behind)) / 2``, is taken away. Its neighbours also hand it its input in the
layout and in the cache where a network's layer finds it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rescompress import __version__, artifact, backends, fakequant
from rescompress.artifact import SCHEMA, Manifest
from rescompress.benchmarking.layers import LayerShape, Target
from rescompress.benchmarking.standin import quantized_standin
from rescompress.schemes import scheme_for
from rescompress.sites import precision_of
from rescompress.spec import CIFAR, ModelSpec

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Probe:
    """One graph to be timed.

    Attributes:
        kind: the layer with a ReLU between depthwise 1 x 1 convolutions (a linear layer stands alone), or two of
            these, or these with a residual sum, or nothing but a ReLU of a vector.
        layer: the layer, or the depthwise convolution.
    """

    kind: Literal["layer", "ends", "sum", "vector"]
    layer: LayerShape

    def __str__(self) -> str:
        s = self.layer
        pairs = (s.kernel, s.stride, s.padding, s.dilation)
        sizes = " ".join(f"{name}{a}x{b}" for name, (a, b) in zip("kspd", pairs, strict=True))
        return f"{self.kind} {s.op} {s.in_channels}>{s.out_channels} {sizes} g{s.groups} {s.height}x{s.width}"

    @property
    def input_shape(self) -> Shape:
        """Channels, height and width of the graph's input."""
        return self.layer.in_channels, self.layer.height, self.layer.width


def terms(shape: LayerShape) -> dict[Probe, float]:
    """The probes of a layer and how often each one's latency counts."""
    if shape.op == "linear":
        nothing = LayerShape("linear", shape.in_channels, shape.in_channels, height=shape.height)
        return {Probe("layer", _bare(shape)): 1.0, Probe("vector", nothing): -1.0}
    before = _depthwise(shape.in_channels, shape.height, shape.width)
    behind = _depthwise(shape.out_channels, *shape.output_size)
    found: dict[Probe, float] = {Probe("layer", _bare(shape)): 1.0}
    for end in (before, behind):
        _count(found, Probe("ends", end), -0.5)
    if shape.added:
        _count(found, Probe("sum", behind), 1.0)
        _count(found, Probe("ends", behind), -1.0)
    return found


def export(probe: Probe, target: Target, folder: Path) -> Path:
    """Let the target's backend write a probe's artifact; its weights are random.

    Raises:
        BackendMissing: the runtime is not installed here.
    """
    backend = backends.require(target.backend)
    spec = _ProbeSpec("probe", str(probe), 0, CIFAR, {}, "maps", probe.input_shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = _Probe(probe).eval()
    if target.precision == "int8" and probe.kind != "vector":
        model = quantized_standin(model, spec.input_shape, scheme_for(target.backend))

    def describe(entry: str, files: dict[str, str]) -> Manifest:
        names = (target.backend, str(probe), precision_of(fakequant.sites_of(model)), entry)
        return Manifest(SCHEMA, __version__, *names, files, spec, "none", "0" * 64, "none")

    return artifact.write_artifact(folder, lambda empty: backend.export(model, spec, empty), describe).folder


@dataclass(frozen=True)
class _ProbeSpec(ModelSpec):
    """A spec of something that takes no images."""

    shape: Shape = (3, 1, 1)

    @property
    def input_shape(self) -> Shape:
        return self.shape


class _Probe(nn.Module):
    """The graph itself."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.kind = probe.kind
        layer = probe.layer
        if probe.kind == "vector":
            members = []
        elif layer.op == "linear":
            members = [_layer(layer)]
        elif probe.kind == "layer":
            behind = _depthwise(layer.out_channels, *layer.output_size)
            before = _depthwise(layer.in_channels, layer.height, layer.width)
            members = [_layer(before), nn.Sequential(_layer(layer), nn.ReLU()), _layer(behind)]
        else:
            members = [_layer(layer), _layer(layer)]
        self.layers = nn.ModuleList(members)
        self.anchor = nn.Parameter(torch.zeros(1))  # capture asks a parameter for its device

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n ..."]:
        """The layers in a row."""
        if self.kind == "vector":
            return torch.relu(x.flatten(1))
        first, *rest = self.layers
        if isinstance(first, nn.Linear):
            return cast(Tensor, first(x.flatten(2).transpose(1, 2) if x.shape[2] > 1 else x.flatten(1)))
        y = first(x)
        for layer in rest:
            y = torch.relu(layer(y) + y) if self.kind == "sum" else layer(y)
        return cast(Tensor, y)


def _layer(shape: LayerShape) -> nn.Module:
    if shape.op == "linear":
        return nn.Linear(shape.in_channels, shape.out_channels)
    sides = (shape.kernel, shape.stride, shape.padding, shape.dilation)
    return nn.Conv2d(shape.in_channels, shape.out_channels, *sides, groups=shape.groups)


def _count(found: dict[Probe, float], probe: Probe, times: float) -> None:
    found[probe] = found.get(probe, 0.0) + times


def _bare(shape: LayerShape) -> LayerShape:
    """The layer without the sum behind it, which has a probe of its own."""
    return replace(shape, added=False)


def _depthwise(channels: int, height: int, width: int) -> LayerShape:
    return LayerShape("conv", channels, channels, groups=channels, height=height, width=width)
