"""torchvision's ResNets, ResNeXts and wide ResNets, by torchvision's own names (He et al. 2015, arXiv:1512.03385)."""

from typing import cast

from torch import nn

from rescompress.models._torchvision_import import import_torchvision
from rescompress.spec import Preprocessing

ARCHITECTURES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
PREPROCESSING = Preprocessing(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def build(
    architecture: str, classes: int, *, replace_stride_with_dilation: tuple[bool, bool, bool] = (False, False, False)
) -> nn.Module:
    """The stock network with random weights.

    Args:
        architecture: one of ``ARCHITECTURES``.
        classes: outputs of the classifier.
        replace_stride_with_dilation: which of the last three stages keep their resolution and dilate instead.
    """
    arguments = {"num_classes": classes, "replace_stride_with_dilation": list(replace_stride_with_dilation)}
    return cast(nn.Module, import_torchvision().models.get_model(architecture, weights=None, **arguments))


def rename(name: str) -> str:
    """DataParallel checkpoints say ``module.`` in front."""
    return name.removeprefix("module.")
