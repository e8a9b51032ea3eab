"""Networks of one's own: a function builds them, and only the user decides that it runs."""

from pathlib import Path

import pytest
import torch
from torch import nn

from rescompress import checkpoint, models
from rescompress.context import Context
from rescompress.errors import InputRefused, RecipeError
from rescompress.models import builder
from rescompress.pruning import prune
from tests.networks import enliven, noise

HERE = "tests.models.test_builder"


def tiny(num_classes: int = 4, width: int = 16) -> nn.Module:
    """A network that no family knows."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, num_classes),
    )


def plain() -> nn.Module:
    """Takes no number of classes."""
    return tiny(3)


def nothing(classes: int) -> int:
    """Builds no module."""
    return classes


class Masked(nn.Linear):
    """Draws what no state dict holds."""

    def __init__(self, classes: int) -> None:
        super().__init__(3, classes)
        self.register_buffer("mask", nn.init.constant_(torch.empty(classes), 2.0), persistent=False)


def masked(classes: int) -> nn.Module:
    """A layer with a buffer that is made, not loaded."""
    return Masked(classes)


NUMBER = 5


@pytest.fixture(autouse=True)
def nobody_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_allowed", set())


def test_a_function_gets_its_classes_and_keywords() -> None:
    model = models.build(models.built_by(f"{HERE}:tiny", 6, width=8))
    assert models.predict(model, [torch.randn(2, 3, 32, 32)]).shape == (2, 6)
    assert models.build(models.built_by(f"{HERE}:plain", 3))[8].out_features == 3


def test_a_built_network_is_pruned_saved_and_loaded(tmp_path: Path) -> None:
    model = enliven(models.build(models.built_by(f"{HERE}:tiny", 6)))
    pruned = prune(model, Context(), ratio=0.5, round_to=4)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in model.parameters())
    checkpoint.save(pruned, tmp_path / "own.safetensors")
    loaded = checkpoint.load(tmp_path / "own.safetensors")
    assert torch.equal(models.predict(loaded, [noise(model)]), models.predict(pruned, [noise(model)]))


def test_a_file_cannot_decide_which_code_runs(tmp_path: Path) -> None:
    checkpoint.save(models.build(models.built_by(f"{HERE}:tiny", 6)), tmp_path / "own.safetensors")
    builder._allowed.clear()
    with pytest.raises(InputRefused, match="a file can't decide which code runs here") as caught:
        checkpoint.load(tmp_path / "own.safetensors")
    assert f"--builder {HERE}:tiny" in caught.value.remedy


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("tiny", "names no function"),
        ("os.system('x'):y", "names no function"),
        ("no.such.module:tiny", "can't be imported"),
        (f"{HERE}:huge", "can't be imported"),
        (f"{HERE}:NUMBER", "is no function"),
    ],
)
def test_what_is_no_function_is_refused(function: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        models.built_by(function, 3)


def test_what_builds_no_module_is_refused() -> None:
    with pytest.raises(InputRefused, match="gives back a int"):
        models.build(models.built_by(f"{HERE}:nothing", 3))


def test_what_a_file_does_not_hold_is_as_the_function_made_it() -> None:
    model = models.build_empty(models.built_by(f"{HERE}:masked", 4))
    assert torch.equal(model.mask, torch.full((4,), 2.0))
