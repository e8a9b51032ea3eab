"""torchvision's segmentation networks with a dilated ResNet body."""

from collections.abc import Iterator
from functools import cache

from jaxtyping import Float
from torch import Tensor, nn

from rescompress.models import Guess, Shapes, State, Stock
from rescompress.models._layout import classes_of, count_blocks
from rescompress.models._torchvision_import import import_torchvision

DEPTHS = {
    "deeplabv3_resnet50": (3, 4, 6, 3),
    "deeplabv3_resnet101": (3, 4, 23, 3),
    "fcn_resnet50": (3, 4, 6, 3),
    "fcn_resnet101": (3, 4, 23, 3),
}
ARCHITECTURES = dict.fromkeys(DEPTHS, Stock(output="maps"))


def build(architecture: str, classes: int, *, aux_loss: bool = False) -> nn.Module:
    """The stock network with random weights, whose ``forward`` gives class maps as plain tensors.

    Args:
        architecture: one of ``ARCHITECTURES``.
        classes: classes of a pixel, background included.
        aux_loss: whether the third stage has a classifier of its own, as torchvision's trained weights do.
    """
    import_torchvision()
    from torchvision.models import segmentation

    arguments = {"num_classes": classes, "aux_loss": aux_loss}
    stock = getattr(segmentation, architecture)(weights=None, weights_backbone=None, **arguments)
    # The class of the stock network with another forward: names and structure stay torchvision's.
    stock.__class__ = _maps()
    model: nn.Module = stock
    return model


def guess(shapes: Shapes) -> Iterator[Guess]:
    """By the body's blocks per stage and the presence of an auxiliary classifier."""
    classes, aux = classes_of(shapes, "classifier.4"), "aux_classifier.0.weight" in shapes
    blocks = count_blocks(shapes, r"backbone\.layer{}\.(\d+)\.")
    if classes:
        yield from ((name, classes, {"aux_loss": aux}) for name, depths in DEPTHS.items() if depths == blocks)


def adopt(state: State) -> dict[str, Tensor]:
    """Names in public checkpoints are torchvision's own."""
    return dict(state)


@cache
def _maps() -> type[nn.Module]:
    from torchvision.models.segmentation._utils import _SimpleSegmentationModel

    class Maps(_SimpleSegmentationModel):  # type: ignore[misc]
        def forward(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n classes h w"], ...]:
            """Class scores of each pixel; those of the auxiliary classifier second."""
            return tuple(super().forward(images).values())

    return Maps
