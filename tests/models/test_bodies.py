"""Detectors and segmenters: the body gets smaller, its heads stay torchvision's own and go on working."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rescompress import checkpoint, models
from rescompress.context import Context
from rescompress.fusion import fuse
from rescompress.models._torchvision_import import import_torchvision
from rescompress.pruning import prune
from tests.networks import noise, stock

FASTER = ("detection", "fasterrcnn_resnet50_fpn")
SEGMENTERS = ("fcn_resnet50", "deeplabv3_resnet50", "fcn_resnet101", "deeplabv3_resnet101")
SIDE = 64


@cache
def detector() -> nn.Module:
    return stock(*FASTER, 5, side=SIDE)


@cache
def small_detector() -> nn.Module:
    return prune(detector(), Context(), ratio=0.5, keep=("backbone.fpn.*",))


@cache
def small_segmenter(architecture: str) -> nn.Module:
    return prune(stock("segmentation", architecture, 5, side=SIDE, aux_loss=True), Context(), ratio=0.5)


def widths(model: nn.Module, within: str) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a part."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name.startswith(within)}


def on_meta(family: str, architecture: str, **arguments: Any) -> nn.Module:
    return models.outline(models.spec(family, architecture, 5, **arguments))


def torchvisions_own(kind: str, architecture: str, **arguments: Any) -> nn.Module:
    made = getattr(import_torchvision().models, kind)
    with torch.device("meta"):
        return made.__dict__[architecture](weights=None, weights_backbone=None, num_classes=5, **arguments)


def test_the_stock_detector_has_torchvisions_own_tensors() -> None:
    torchvisions_own(*FASTER).load_state_dict(on_meta(*FASTER).state_dict(), strict=True, assign=True)


@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("architecture", SEGMENTERS[:2])
def test_a_stock_segmenter_has_torchvisions_own_tensors(architecture: str, aux: bool) -> None:
    ours = on_meta("segmentation", architecture, aux_loss=aux)
    torchvisions_own("segmentation", architecture, aux_loss=aux).load_state_dict(ours.state_dict(), assign=True)


def test_names_of_old_releases_are_adopted() -> None:
    """Up to 0.12 the pyramid and the proposal head had no blocks around their convolutions."""
    new = on_meta(*FASTER).state_dict()
    parts = ("backbone.fpn.inner_blocks", "backbone.fpn.layer_blocks")
    old = {}
    for name, tensor in new.items():
        plain = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if name.startswith(parts):
            plain = plain.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        old[plain] = tensor
    assert old.keys() != new.keys()
    assert {"backbone.fpn.inner_blocks.3.weight", "rpn.head.conv.bias"} <= old.keys()
    adopted = models.family("detection").adopt(old)
    assert [(name, tensor.shape) for name, tensor in adopted.items()] == [(n, t.shape) for n, t in new.items()]
    assert str(models.infer(old)) == "detection fasterrcnn_resnet50_fpn, 5 classes"


def test_pruning_a_detector_keeps_its_neck_and_heads() -> None:
    whole, small = detector(), small_detector()
    for part in ("rpn", "roi_heads", "backbone.fpn.layer_blocks"):
        assert widths(small, part) == widths(whole, part)
    for level in range(4):
        lateral, stage = small.backbone.fpn.inner_blocks[level][0], small.backbone.body[f"layer{level + 1}"]
        assert lateral.in_channels == stage[-1].conv3.out_channels == 128 * 2**level
        assert lateral.out_channels == 256
    maps, wanted = (model(noise(model)) for model in (small, whole))
    assert [one.shape for one in maps] == [one.shape for one in wanted]
    assert sum(p.numel() for p in small.backbone.body.parameters()) < 0.4 * sum(
        p.numel() for p in whole.backbone.body.parameters()
    )


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy suppression in Python, for a torchvision whose compiled part can't be loaded."""
    from torchvision.ops import box_iou

    left, kept = scores.argsort(descending=True), []
    while len(left):
        kept.append(left[0])
        left = left[1:][box_iou(boxes[left[:1]], boxes[left[1:]])[0] <= threshold]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)


@pytest.fixture
def detecting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[dict[str, Tensor]]]:
    import_torchvision()
    from torchvision import extension
    from torchvision.ops import boxes

    if not extension._has_ops():
        monkeypatch.setattr(boxes, "nms", nms)
        # Its stand-in for the other operator is compiled first, which takes a C++ compiler and a minute.
        monkeypatch.setattr(torch, "compile", lambda function, **_: function)

    def call(model: Any) -> list[dict[str, Tensor]]:
        model.transform.min_size, model.transform.max_size = (SIDE,), SIDE
        model.rpn._pre_nms_top_n = model.rpn._post_nms_top_n = {"training": 50, "testing": 50}
        model.roi_heads.score_thresh = 0.0
        with torch.no_grad():
            return model.detect([torch.rand(3, SIDE, SIDE), torch.rand(3, 48, SIDE)])

    return call


@pytest.mark.slow
def test_a_smaller_detector_still_detects(detecting: Callable[[Any], list[dict[str, Tensor]]], tmp_path: Path) -> None:
    checkpoint.save(fuse(small_detector(), Context()), tmp_path / "small.safetensors")
    found = detecting(checkpoint.load(tmp_path / "small.safetensors"))
    assert len(found) == 2
    for each in found:
        assert {"boxes", "labels", "scores"} <= each.keys()
        assert len(each["boxes"]) == len(each["labels"]) == len(each["scores"]) > 0
        assert bool(torch.isfinite(each["boxes"]).all())
        assert bool(((each["labels"] > 0) & (each["labels"] < 5)).all())
        assert bool(((each["scores"] >= 0) & (each["scores"] <= 1)).all())


@pytest.mark.slow
def test_a_whole_detector_detects_as_torchvisions_own(detecting: Callable[[Any], list[dict[str, Tensor]]]) -> None:
    from torchvision.models import detection

    theirs = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5).eval()
    theirs.load_state_dict(detector().state_dict(), strict=True)
    theirs.detect = theirs.forward
    torch.manual_seed(0)
    wanted = detecting(theirs)
    torch.manual_seed(0)
    found = detecting(detector())
    for one, other in zip(found, wanted, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("boxes", "labels", "scores"))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SEGMENTERS[:2])
def test_pruning_a_segmenter_keeps_its_classes_and_resolution(architecture: str, tmp_path: Path) -> None:
    whole, small = stock("segmentation", architecture, 5, side=SIDE, aux_loss=True), small_segmenter(architecture)
    maps = models.in_rows(small(noise(small)))
    assert [tuple(one.shape) for one in small(noise(small))] == [(2, 5, SIDE, SIDE)] * 2
    assert small.backbone.layer4[-1].conv3.out_channels < whole.backbone.layer4[-1].conv3.out_channels
    checkpoint.save(small, tmp_path / "small.safetensors")
    loaded = checkpoint.load(tmp_path / "small.safetensors")
    assert torch.equal(models.in_rows(loaded(noise(small))), maps)
