"""timm's ResNets: deep stems, pooled shortcuts, squeeze-excitation, group norm, pre-activation; by timm's own names."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import Tensor, nn

from rescompress.models import Guess, Shapes, State, Stock
from rescompress.models._hub import preprocessing_of
from rescompress.models._layout import classes_of
from rescompress.models._torchvision_import import import_torchvision
from rescompress.spec import IMAGENET, ModelSpec

ARCHITECTURES = dict.fromkeys(
    (
        *(
            "resnet10t",
            "resnet14t",
            "resnet18",
            "resnet18d",
            "resnet26",
            "resnet26d",
            "resnet26t",
            "resnet34",
            "resnet34d",
        ),
        *("resnet50", "resnet50c", "resnet50d", "resnet50s", "resnet50t", "resnet50_gn"),
        *("resnet101", "resnet101c", "resnet101d", "resnet101s", "resnet152", "resnet152c", "resnet152d", "resnet152s"),
        *("resnet200", "resnet200d", "resnetaa34d", "resnetaa50", "resnetaa50d", "resnetaa101d"),
        *("resnetrs50", "resnetrs101", "resnetrs152", "resnetrs200"),
        *("resnext50_32x4d", "resnext50d_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
        *("seresnet18", "seresnet34", "seresnet50", "seresnet50t", "seresnet101", "seresnet152", "seresnet152d"),
        *("seresnext26d_32x4d", "seresnext26t_32x4d", "seresnext50_32x4d", "seresnext101_32x4d", "seresnext101_32x8d"),
        *("wide_resnet50_2", "wide_resnet101_2"),
        *("resnetv2_18", "resnetv2_18d", "resnetv2_34", "resnetv2_34d", "resnetv2_50", "resnetv2_50d", "resnetv2_50t"),
        *("resnetv2_101", "resnetv2_101d", "resnetv2_152", "resnetv2_152d"),
    ),
    Stock(),
)
UNGUESSED = frozenset(
    (
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
        *("resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
        *("resnetaa34d", "resnetaa50", "resnetaa50d", "resnetaa101d"),
    )
)
"""Taken only when asked for: torchvision's layer for layer, or unlike another in layers without weights only."""

_DEEP = re.compile(r"(?<!x)\d[cdst](_|$)|rs\d")
_BLOCK = re.compile(r"(?:layer\d+|stages\.\d+\.blocks)\.\d+\.")


def build(architecture: str, classes: int) -> nn.Module:
    """The stock network with random weights.

    Args:
        architecture: one of ``ARCHITECTURES``.
        classes: outputs of the classifier.
    """
    import_torchvision()  # timm dies on a torchvision whose extension can't load
    import timm

    return cast(nn.Module, timm.create_model(architecture, pretrained=False, num_classes=classes))


def guess(shapes: Shapes) -> Iterator[Guess]:
    """By the number of blocks, which the depth in the name states, and by stem, norm and squeeze-excitation."""
    deep = "conv1.0.weight" in shapes or "stem.conv1.weight" in shapes
    squeezed = any(".se." in name for name in shapes)
    staged = any(name.startswith("stages.") for name in shapes)
    grouped = not any(name.endswith(".running_mean") for name in shapes)
    places = {match.group() for match in map(_BLOCK.match, shapes) if match}
    classes = classes_of(shapes, "fc") or classes_of(shapes, "head.fc")
    for name in ARCHITECTURES if classes else ():
        depth = int(re.findall(r"\d+", name.removeprefix("resnetv2"))[0])
        fits = len(places) in ((depth - 2) // 2, (depth - 2) // 3) and name not in UNGUESSED
        alike = bool(_DEEP.search(name)) == deep and (name.startswith("se") or "rs" in name) == squeezed
        normed = name.startswith("resnetv2") == staged and name.endswith("_gn") == grouped
        if fits and alike and normed:
            yield name, classes, {}


def adopt(state: State) -> dict[str, Tensor]:
    """Names in public checkpoints are timm's own."""
    return dict(state)


def configured(config: Mapping[str, Any], images: Mapping[str, Any]) -> ModelSpec | None:
    """The network that timm's ``config.json`` describes."""
    architecture, said = config.get("architecture"), config.get("pretrained_cfg")
    if architecture not in ARCHITECTURES or not isinstance(said, dict):
        return None
    side = int((said.get("input_size") or (3, IMAGENET.crop))[1])
    prepared = preprocessing_of(side, float(said.get("crop_pct") or 0.875), said, IMAGENET)
    return ModelSpec("timm", architecture, int(config.get("num_classes") or 1000), prepared)
