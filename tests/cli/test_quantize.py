"""The verb quantize: weights alone without images, images that are no use, and training that was killed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rescompress import checkpoint, pipeline, progress, recipe, reporting
from rescompress.fakequant import sites_of
from rescompress.training import snapshot
from tests.cli.conftest import Said

MODEL = "digits_resnet20"


def test_weights_alone_need_no_data(say: Callable[..., Said], tmp_path: Path) -> None:
    said = say("quantize", "--w4", MODEL, "-o", tmp_path / "out")
    assert said.code == 0, said.err
    row = reporting.read(tmp_path / "out").stages[-1]
    assert (row.stage, row.knobs["precision"], row.accuracy) == ("quantize", "w4", None)
    sites = sites_of(checkpoint.load(tmp_path / "out" / "stages" / row.checkpoint))
    assert {site.dtype for site in sites} == {"int4"}


def test_images_of_one_colour_are_refused(say: Callable[..., Said], tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in "abcdefghij":
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(4):
                Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / split / name / f"{number}.png")
    said = say("quantize", MODEL, "--data", f"{{imagefolder: {{root: {tmp_path}}}}}", "-o", tmp_path / "out")
    assert said.code == 4
    assert "Every calibration image is of one colour" in said.err


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("--w8", "--qat", "learned"), "qat trains INT8, not w8"),
        (("--epochs", 3), "schedule is for QAT, which is off"),
        (("--w4", "--equalization", "on"), "equalization goes by what images do"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    words: tuple[object, ...], fact: str, say: Callable[..., Said]
) -> None:
    said = say("quantize", MODEL, "--data", "digits", *words)
    assert (said.code, fact in said.err) == (2, True)


@pytest.mark.slow
def test_a_recipe_with_qat_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    from rescompress.quantization import qat

    training = {"qat": "learned", "schedule": {"epochs": 1}, "calibration_images": 32}
    model = {"family": "cifar", "architecture": "resnet8", "classes": 10}
    job = recipe.parse({"name": "a", "model": model, "data": "digits", "stages": ["fuse", {"quantize": training}]})
    whole = pipeline.run(job, tmp_path / "whole").stages[-1]
    monkeypatch.setattr(snapshot, "EVERY_S", 0.0)
    monkeypatch.setattr(snapshot, "LARGEST_SHARE", 1e9)
    loss, left = qat.softened, [5]

    def dies(*arguments: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return loss(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(qat, "softened", dies)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(job, tmp_path / "killed")
    with progress.gathered() as notes:
        again = pipeline.run(job, tmp_path / "killed").stages[-1]
    assert any("goes on from step" in note for note in notes)
    assert again.sha256 == whole.sha256
    assert again.accuracy == whole.accuracy
