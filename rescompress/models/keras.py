"""Keras' ResNets of He et al. 2015 as ``keras.applications`` trains them: v1 striding, biases, BGR images."""

import re
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from rescompress.models import Guess, Shapes, State, Stock
from rescompress.models._layout import classes_of, count_blocks
from rescompress.models._torchvision_import import import_torchvision
from rescompress.spec import Preprocessing

DEPTHS = {"ResNet50": (3, 4, 6, 3), "ResNet101": (3, 4, 23, 3), "ResNet152": (3, 8, 36, 3)}
# Keras subtracts a mean from 0..255 and divides by nothing.
MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
ARCHITECTURES = dict.fromkeys(DEPTHS, Stock(Preprocessing(256, 224, MEAN, (1 / 255, 1 / 255, 1 / 255))))
EPS = 1.001e-5
LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_VARIABLES = {
    "conv2d": ("weight", "bias"),
    "dense": ("weight", "bias"),
    "batch_normalization": ("weight", "bias", "running_mean", "running_var"),
}
_LAYER = re.compile(r"conv(\d)_block(\d+)_(\d)_(conv|bn)$")


def build(architecture: str, classes: int) -> nn.Module:
    """The stock network with random weights: torchvision's class with Keras' strides, biases and epsilon.

    Args:
        architecture: one of ``ARCHITECTURES``.
        classes: outputs of the classifier.
    """
    model: nn.Module = import_torchvision().models.get_model(architecture.lower(), weights=None, num_classes=classes)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
        elif isinstance(module, nn.BatchNorm2d):
            module.eps = EPS
        if re.fullmatch(r"layer[234]\.0", name):
            cast(nn.Conv2d, module.conv1).stride, cast(nn.Conv2d, module.conv2).stride = (2, 2), (1, 1)
    return model


def guess(shapes: Shapes) -> Iterator[Guess]:
    """By the blocks per stage; only Keras gives its convolutions a bias."""
    blocks, classes = count_blocks(shapes), classes_of(shapes, "fc")
    if classes and "conv1.bias" in shapes:
        yield from ((name, classes, {}) for name, depths in DEPTHS.items() if depths == blocks)


def adopt(state: State) -> dict[str, Tensor]:
    """Keras' layers under torchvision's names, kernels turned from HWIO to OIHW, the first one from BGR to RGB."""
    if not any("/" in name for name in state):
        return dict(state)
    named = _by_layer(state) if any(name.startswith("conv1_conv/") for name in state) else _by_number(state)
    turned = {name: _turn(tensor) if name.endswith("weight") else tensor for name, tensor in named.items()}
    if "conv1.weight" in turned:
        turned["conv1.weight"] = turned["conv1.weight"].flip(1)
    return turned


def _turn(tensor: Tensor) -> Tensor:
    if tensor.dim() == 4:
        return tensor.permute(3, 2, 0, 1).contiguous()
    return tensor.T.contiguous() if tensor.dim() == 2 else tensor


def _by_layer(state: State) -> dict[str, Tensor]:
    """From ``conv2_block1_0_conv/conv2_block1_0_conv/kernel:0``, as ``.h5`` files say."""
    found = {}
    for name, tensor in state.items():
        layer, _, leaf = name.partition("/")
        leaf = leaf.rpartition("/")[2].partition(":")[0]
        found[f"{_torch_name(layer)}.{LEAVES.get(leaf, leaf)}"] = tensor
    return found


def _by_number(state: State) -> dict[str, Tensor]:
    """From ``layers/conv2d_7/vars/0``, as ``.weights.h5`` files say: layers count by kind, in the model's order."""
    depths = _stages(state)
    found: dict[str, Tensor] = {}
    for kind, order in (("conv2d", _order(depths, "conv")), ("batch_normalization", _order(depths, "bn"))):
        found |= _numbered(state, kind, order)
    return found | _numbered(state, "dense", ["fc"])


def _numbered(state: State, kind: str, order: list[str]) -> dict[str, Tensor]:
    found = {}
    for place, layer in enumerate(order):
        stem = f"layers/{kind}{f'_{place}' if place else ''}/vars"
        for number, leaf in enumerate(_VARIABLES[kind]):
            if f"{stem}/{number}" in state:
                found[f"{layer}.{leaf}"] = state[f"{stem}/{number}"]
    return found


def _stages(state: State) -> tuple[int, ...]:
    """Blocks per stage by the number of convolutions: one in the stem, three a block, one more where a stage begins."""
    convs = sum(re.fullmatch(r"layers/conv2d(_\d+)?/vars/0", name) is not None for name in state)
    return next((depths for depths in DEPTHS.values() if 1 + 3 * sum(depths) + len(depths) == convs), ())


def _order(depths: tuple[int, ...], kind: str) -> list[str]:
    """Keras' order of layers of one kind; a projection stands before the last layer of its block."""
    names = [f"conv1_{kind}"]
    for stage, blocks in enumerate(depths, 2):
        for block in range(1, blocks + 1):
            names += [
                f"conv{stage}_block{block}_{place}_{kind}" for place in ((1, 2, 0, 3) if block == 1 else (1, 2, 3))
            ]
    return [_torch_name(name) for name in names]


def _torch_name(layer: str) -> str:
    fixed = {"conv1_conv": "conv1", "conv1_bn": "bn1", "predictions": "fc"}
    match = _LAYER.match(layer)
    if match is None:
        return fixed.get(layer, layer)
    stage, block, place, kind = match.groups()
    leaf = f"downsample.{int(kind == 'bn')}" if place == "0" else f"{kind}{place}"
    return f"layer{int(stage) - 1}.{int(block) - 1}.{leaf}"
