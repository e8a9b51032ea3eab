"""Trained networks spoiled on purpose, in ways that their FP32 output doesn't show: plain min-max PTQ against ours.

    python benchmarks/pathologies.py ../shared/data [--images 10000] [--parts uneven,streams,dead,spikes,biased]

Every spoiled network is measured in FP32, too: that is what INT8 is compared with. Plain is the observer ``minmax``
(per-tensor activations, per-channel weights) with every remedy off; ours is ``quantize`` with no knob at all.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published
import torch
from torch import Tensor, nn

import rescompress
from rescompress import backends, data, fakequant, graph, models
from rescompress.context import Context
from rescompress.fusion import fuse
from rescompress.placement import place
from rescompress.quantization import quantize
from rescompress.quantization.channels import watch_channels
from rescompress.quantization.ranges import set_activation, set_weight

POWER = 8
"""Channels are scaled by 2^k with k from -8 to 8."""


def uneven(model: nn.Module, _: Tensor, most: int = POWER) -> nn.Module:
    """Scale each channel inside a block by 2^k through its BatchNorm, and the next convolution's column by 2^-k."""
    spoiled, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for block in _blocks(spoiled):
        k = torch.randint(-most, most + 1, (block.bn1.num_features,), generator=generator)
        _scale_norm(block.bn1, 2.0**k)
        block.conv2.weight.data *= (2.0**-k)[:, None, None]
    return spoiled


def streams(model: nn.Module, images: Tensor, most: int = POWER) -> nn.Module:
    """The channels of the residual streams, too: all that make or read a channel are scaled together."""
    spoiled, generator = uneven(model, images, most), torch.Generator().manual_seed(1)
    k = torch.randint(-most, most + 1, (spoiled.conv1.out_channels,), generator=generator)
    _scale_norm(spoiled.bn1, 2.0**k)
    for block in _blocks(spoiled):
        block.conv1.weight.data *= (2.0**-k)[:, None, None]
        sources = getattr(block.shortcut, "sources", None)
        if sources is not None:
            new = torch.randint(-most, most + 1, (len(sources),), generator=generator)
            k = torch.tensor([int(k[source]) if source >= 0 else int(new[j]) for j, source in enumerate(sources)])
        _scale_norm(block.bn2, 2.0**k)
    spoiled.linear.weight.data *= 2.0**-k
    return spoiled


@torch.no_grad()
def dead(model: nn.Module, _: Tensor) -> nn.Module:
    """Channels that nothing reads any more, one constant and one noisy in each block, left with huge BatchNorms."""
    spoiled, generator = copy.deepcopy(model), torch.Generator().manual_seed(2)
    for block in _blocks(spoiled):
        rows = torch.randn(2, *block.conv1.weight.shape[1:], generator=generator) * float(block.conv1.weight.std())
        rows[0] = 0
        # Weight, bias, mean and variance: what is left after training with weight decay and a variance near zero.
        norm = torch.tensor([[1.0, 200.0, 0.0, 1e-12], [100.0, 0.0, 0.0, 1e-4]])
        _widen(block, rows, norm, torch.zeros(len(block.conv2.weight), 2, 3, 3))
    return spoiled


@torch.no_grad()
def spikes(model: nn.Module, images: Tensor) -> nn.Module:
    """A channel in each block that is silent but on one pixel in 2,000, and reaches 500 times beyond the others."""
    spoiled = copy.deepcopy(model).eval()
    for block in _blocks(spoiled):
        seen: list[Tensor] = []
        with block.bn1.register_forward_hook(lambda _m, _i, y, seen=seen: seen.append(y)):
            spoiled(images)
        largest = float(seen[0].max())
        source = int(seen[0].amax((0, 2, 3)).argmax())
        threshold = float(seen[0][:, source].flatten().kthvalue(int(seen[0][:, source].numel() * 0.9995)).values)
        gain = 500 * largest / (largest - threshold)
        old = block.bn1
        norm = torch.stack([old.weight[source] * gain, gain * (old.bias[source] - threshold)])
        norm = torch.cat([norm, torch.stack([old.running_mean[source], old.running_var[source]])])[None]
        columns = 1e-4 * block.conv2.weight.std() * torch.ones(len(block.conv2.weight), 1, 3, 3)
        _widen(block, block.conv1.weight[source : source + 1].clone(), norm, columns)
    return spoiled


@torch.no_grad()
def biased(model: nn.Module, images: Tensor) -> nn.Module:
    """A channel in each block that is nothing but a large constant, which the next BatchNorm takes off again."""
    spoiled = copy.deepcopy(model).eval()
    for block in _blocks(spoiled):
        c, o = block.conv1.in_channels, len(block.conv2.weight)
        height = 3000.0
        columns = torch.zeros(o, 1, 3, 3)
        columns[:, :, 1, 1] = block.conv2.weight.abs().amax((1, 2, 3))[:, None]
        _widen(block, torch.zeros(1, c, 3, 3), torch.tensor([[1.0, height, 0.0, 1.0]]), columns)
        block.bn2.running_mean += height * columns[:, 0, 1, 1]
    return spoiled


PARTS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "healthy": lambda model, _: model,
    "uneven": uneven,
    "streams": streams,
    "dead": dead,
    "spikes": spikes,
    "biased": biased,
}


def _blocks(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "conv2") and hasattr(module, "bn2")]


def _scale_norm(norm: Any, s: Tensor) -> None:
    norm.weight.data *= s
    norm.bias.data *= s


def _widen(block: Any, rows: Tensor, norm: Tensor, columns: Tensor) -> None:
    """Add channels inside a block, in place: rows of conv1, (γ, β, μ, σ²) of bn1, columns of conv2."""
    for conv, extra, axis in ((block.conv1, rows, 0), (block.conv2, columns, 1)):
        conv.weight = nn.Parameter(torch.cat([conv.weight.detach(), extra], axis))
        conv.out_channels, conv.in_channels = conv.weight.shape[:2]
    parts = ("weight", "bias", "running_mean", "running_var")
    for name, extra in zip(parts, norm.unbind(1), strict=True):
        old = getattr(block.bn1, name)
        new = torch.cat([old.detach(), extra])
        setattr(block.bn1, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    block.bn1.num_features = len(block.bn1.weight)


@torch.no_grad()
def plain(model: nn.Module, ctx: Context, images: int) -> nn.Module:
    """Min-max PTQ and nothing else: extremes over the calibration images, per-channel weights, no remedy."""
    spec = models.spec_of(model)
    traced = graph.capture(graph.clone(model).eval(), spec.input_shape)
    steps = data.batches(ctx.images("quantize").calibration, spec.preprocessing, 64, images)
    found = watch_channels(traced, (batch for batch, _ in steps))
    sites = place(traced, backends.get("onnxruntime").SCHEME)
    fakequant.insert(traced, sites)
    for site in sites:
        if not site.is_weight:
            seen = found[site.quantizer]
            set_activation(fakequant.quantizer_of(traced, site), float(seen.low.min()), float(seen.high.max()))
    for node in traced.graph.nodes:
        if graph.op_of(node) in ("conv", "linear"):
            set_weight(traced, node)
    return models.describe(traced, spec)


@torch.no_grad()
def correct(model: nn.Module, ctx: Context, count: int) -> float:
    """Share of the test images that a model gets right, in percent; of so many by chance."""
    test = ctx.images("measure").test
    rows = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:count].tolist()
    right = 0
    for start in range(0, len(rows), 250):
        places = rows[start : start + 250]
        images = data.normalize(test.read(places), models.spec_of(model).preprocessing)
        right += int((model(images).argmax(1) == test.labels[list(places)]).sum())
    return 100 * right / len(rows)


def main() -> None:
    """Spoil, quantize both ways, measure, and write ``results/pathologies.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds cifar10/ and weights/")
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--calibration", type=int, default=512, help="calibration images, out of the training set")
    parser.add_argument("--parts", default=",".join(PARTS))
    asked = parser.parse_args()
    model = rescompress.load(asked.folder / "weights" / "cifar10_resnet20_jpegft.th").eval()
    ctx = Context.of(model, "cifar10", root=str(asked.folder / "cifar10"))
    images, _ = next(data.batches(ctx.images("spoil").calibration, models.spec_of(model).preprocessing, 64))
    rows: dict[str, Any] = {}
    for part in asked.parts.split(","):
        spoiled = fuse(models.describe(PARTS[part](model, images), models.spec_of(model)), ctx)
        float_ = correct(spoiled, ctx, asked.images)
        made = plain(spoiled, ctx, asked.calibration), quantize(spoiled, ctx, calibration_images=asked.calibration)
        minmax, ours = (correct(network, ctx, asked.images) for network in made)
        rows[part] = {"fp32": float_, "plain": minmax, "ours": ours}
        print(
            f"{part}: FP32 {float_:.2f} %, plain {minmax - float_:+.2f} points, ours {ours - float_:+.2f}", flush=True
        )
    said = {"images": asked.images, "calibration": asked.calibration}
    published.write("pathologies", {**said, "parts": rows, **published.here()})


if __name__ == "__main__":
    main()
