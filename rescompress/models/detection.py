"""torchvision's detectors with a ResNet body and a feature pyramid: body and pyramid are what is compressed."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from rescompress.models import Guess, Shapes, State, Stock
from rescompress.models._layout import classes_of
from rescompress.models._torchvision_import import import_torchvision
from rescompress.spec import Preprocessing

FASTER = "fasterrcnn_resnet50_fpn"
PREPROCESSING = Preprocessing(resize=320, crop=320, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_OLD = re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$")
_OLD_HEAD = re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$")
ARCHITECTURES = {FASTER: Stock(PREPROCESSING, "maps")}


def build(architecture: str, classes: int, *, eps: Annotated[float, Field(ge=0)] = 1e-5) -> nn.Module:
    """The stock detector with random weights, whose ``forward`` gives the pyramid's feature maps.

    The heads stay in the module with their weights, and the detector itself is its ``detect``.

    Args:
        architecture: one of ``ARCHITECTURES``.
        classes: outputs of the box classifier, background included.
        eps: of the BatchNorms; torchvision's own COCO weights were trained with 0.
    """
    import_torchvision()
    from torchvision.models import detection

    stock = getattr(detection, architecture)(weights=None, weights_backbone=None, num_classes=classes)
    for module in stock.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    # The class of the stock detector with another forward: names and structure stay torchvision's.
    stock.__class__ = _features()
    model: nn.Module = stock
    return model


def guess(shapes: Shapes) -> Iterator[Guess]:
    """By the box classifier."""
    classes = classes_of(shapes, "roi_heads.box_predictor.cls_score")
    if classes:
        yield FASTER, classes, {}


def adopt(state: State) -> dict[str, Tensor]:
    """Checkpoints of old releases name the pyramid's and the proposal head's convolutions without their block."""
    return {_OLD.sub(r"\1.0.\2", _OLD_HEAD.sub(r"\1.0.0.\2", name)): tensor for name, tensor in state.items()}


@cache
def _features() -> type[nn.Module]:
    from torchvision.models.detection import FasterRCNN

    class Features(FasterRCNN):  # type: ignore[misc]
        def forward(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n _ _ _"], ...]:
            """The maps that the detector's heads read, finest first."""
            return tuple(self.backbone(images).values())

        def detect(self, images: list[Tensor]) -> Any:
            """The maker's own forward: images in [0, 1] to boxes, labels and scores."""
            return super().forward(images)

    return Features
