"""The verb that keeps a calibration in a file."""

from collections.abc import Callable
from pathlib import Path

import pytest

import rescompress
from rescompress.context import Context
from rescompress.quantization import statistics
from tests.cli.conftest import Said

pytest.importorskip("sklearn")
MODEL = ("digits_resnet20", "--data", "digits", "--calibration-images", 16)


def test_calibrate_leaves_one_file_that_belongs_to_the_fused_network(say: Callable[..., Said], tmp_path: Path) -> None:
    file = tmp_path / "statistics.safetensors"
    said = say("calibrate", *MODEL, "-o", file)
    assert said.code == 0, said.err
    assert "on 16 images" in said.out
    assert "ranges vary less with 128" in said.err
    assert list(tmp_path.iterdir()) == [file]
    model = rescompress.load("digits_resnet20")
    context = Context.of(model, "digits")
    fused = rescompress.fuse(model, context)
    assert statistics.load(file, statistics.origin_of(fused, context.images("test"))).images == 16


def test_calibrate_into_a_file_of_something_else_changes_nothing(say: Callable[..., Said], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    rescompress.save(rescompress.load("digits_resnet20"), file)
    before = file.read_bytes()
    said = say("calibrate", *MODEL, "-o", file)
    assert said.code == 4
    assert "holds no statistics of a calibration" in said.err
    assert file.read_bytes() == before


def test_calibrate_without_images_or_a_place_is_refused(say: Callable[..., Said], tmp_path: Path) -> None:
    assert say("calibrate", *MODEL).code == 2
    said = say("calibrate", "digits_resnet20", "-o", tmp_path / "statistics.safetensors")
    assert (said.code, "calibrate needs images" in said.err) == (2, True)
