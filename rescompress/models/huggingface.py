"""Hugging Face transformers' ResNets: basic and bottleneck, v1 and v1.5 striding, as classifiers or backbones."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from rescompress.errors import InputRefused
from rescompress.models import Guess, Shapes, State, Stock
from rescompress.models._hub import preprocessing_of
from rescompress.models._layout import classes_of
from rescompress.models._torchvision_import import import_torchvision
from rescompress.spec import IMAGENET, ModelSpec

CLASSIFIER, BACKBONE = "ResNetForImageClassification", "ResNetBackbone"
ARCHITECTURES = {CLASSIFIER: Stock(), BACKBONE: Stock(output="maps")}
CONFIGURED = (
    "embedding_size",
    "hidden_sizes",
    "depths",
    "layer_type",
    "downsample_in_first_stage",
    "downsample_in_bottleneck",
    "out_features",
)
"""Entries of a ``config.json`` that are arguments of ``build``."""


def build(
    architecture: str,
    classes: int,
    *,
    embedding_size: int = 64,
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048),
    depths: tuple[int, ...] = (3, 4, 6, 3),
    layer_type: Literal["basic", "bottleneck"] = "bottleneck",
    downsample_in_first_stage: bool = False,
    downsample_in_bottleneck: bool = False,
    out_features: tuple[str, ...] | None = None,
) -> nn.Module:
    """The stock network with random weights.

    Args:
        architecture: ``ResNetForImageClassification`` or ``ResNetBackbone``.
        classes: outputs of the classifier; 0 for a backbone.
        embedding_size: channels of the stem.
        hidden_sizes: channels of each stage.
        depths: blocks of each stage.
        layer_type: basic or bottleneck blocks.
        downsample_in_first_stage: whether the first stage halves the resolution too.
        downsample_in_bottleneck: the first 1 x 1 convolution strides (v1), not the 3 x 3 (v1.5).
        out_features: stages whose maps a backbone gives back, such as ``stage2``; none means the last.
    """
    import_torchvision()  # transformers dies on a torchvision whose extension can't load
    from transformers import ResNetConfig

    config = ResNetConfig(
        embedding_size=embedding_size,
        hidden_sizes=list(hidden_sizes),
        depths=list(depths),
        layer_type=layer_type,
        downsample_in_first_stage=downsample_in_first_stage,
        downsample_in_bottleneck=downsample_in_bottleneck,
        num_labels=classes or 1,
        out_features=list(out_features) if out_features else None,
    )
    model: nn.Module = _classes()[architecture](config)
    return model


def guess(shapes: Shapes) -> Iterator[Guess]:
    """By the blocks and their widths; where they stride can't be seen in a state dict, so v1.5 is taken."""
    classes, root = (
        classes_of(shapes, "classifier.1"),
        "resnet." if any(n.startswith("resnet.") for n in shapes) else "",
    )
    found = [re.match(rf"{re.escape(root)}encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d)\.conv", n) for n in shapes]
    places = [tuple(map(int, match.groups())) for match in found if match]
    if not places or bool(classes) != bool(root):
        return
    depths = tuple(max(p[1] for p in places if p[0] == stage) + 1 for stage in sorted({p[0] for p in places}))
    last = max(place[2] for place in places)
    block = f"{root}encoder.stages.{{}}.layers.0.layer.{last}.convolution.weight"
    arguments: dict[str, Any] = {
        "embedding_size": shapes.get(f"{root}embedder.embedder.convolution.weight", (0,))[0],
        "hidden_sizes": tuple(shapes.get(block.format(stage), (0,))[0] for stage in range(len(depths))),
        "depths": depths,
        "layer_type": "bottleneck" if last == 2 else "basic",
    }
    strides = f"{root}encoder.stages.0.layers.0.shortcut.convolution.weight" in shapes
    if strides and arguments["embedding_size"] == arguments["hidden_sizes"][0]:
        arguments["downsample_in_first_stage"] = True
    yield CLASSIFIER if classes else BACKBONE, classes, arguments


def adopt(state: State) -> dict[str, Tensor]:
    """Names in public checkpoints are transformers' own."""
    return dict(state)


def configured(config: Mapping[str, Any], images: Mapping[str, Any]) -> ModelSpec | None:
    """The network that a ``config.json`` with ``model_type: resnet`` describes."""
    if config.get("model_type") != "resnet":
        return None
    architecture = next(iter(config.get("architectures") or ()), CLASSIFIER)
    if architecture not in ARCHITECTURES:
        raise InputRefused(f"config.json names {architecture}.", f"Known here: {', '.join(ARCHITECTURES)}.")
    for name, usual in (("hidden_act", "relu"), ("num_channels", 3)):
        if config.get(name, usual) != usual:
            raise InputRefused(f"config.json says {name}: {config[name]}.", f"Only {usual} is known here.")
    classes = len(config.get("id2label") or {}) or int(config.get("num_labels") or 2)
    given = {name: config[name] for name in CONFIGURED if config.get(name) is not None}
    size, share = images.get("size") or {}, float(images.get("crop_pct") or 0.875)
    side = int(size.get("shortest_edge") or IMAGENET.crop) if isinstance(size, dict) else int(size)
    said = {"mean": images.get("image_mean"), "std": images.get("image_std")}
    filled = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return ModelSpec(
        family="huggingface",
        architecture=architecture,
        classes=0 if architecture == BACKBONE else classes,
        preprocessing=preprocessing_of(side, share, said, IMAGENET),
        arguments={name: value for name, value in filled.items() if architecture == BACKBONE or name != "out_features"},
        output=ARCHITECTURES[architecture].output,
    )


@cache
def _classes() -> dict[str, Any]:
    """The stock classes, giving plain tensors back instead of transformers' records."""
    from transformers import ResNetBackbone, ResNetForImageClassification

    class Classifier(ResNetForImageClassification):  # type: ignore[misc]
        def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
            logits: Tensor = super().forward(images, return_dict=True).logits
            return logits

    class Backbone(ResNetBackbone):  # type: ignore[misc]
        def forward(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n _ _ _"], ...]:
            return tuple(super().forward(images, return_dict=True).feature_maps)

    return {CLASSIFIER: Classifier, BACKBONE: Backbone}
