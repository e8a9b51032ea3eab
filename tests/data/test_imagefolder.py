"""Folders of images: the layout, what is held out, what is refused."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rescompress.data import imagefolder
from rescompress.errors import InputRefused
from rescompress.spec import Preprocessing


def test_classes_are_sorted_folder_names(preprocessing: Preprocessing, folder_root: Path) -> None:
    opened = imagefolder.load(preprocessing, root=folder_root)
    assert opened.classes == ("ant", "bee", "cat")
    assert opened.test.labels.bincount().tolist() == [6, 4, 3]


def test_an_image_is_the_file_resized_and_cropped(preprocessing: Preprocessing, folder_root: Path) -> None:
    split = imagefolder.load(preprocessing, root=folder_root).test
    assert isinstance(split, imagefolder.Files)
    image = Image.open(folder_root / split.names[0])
    width, height = (32 * side // min(image.size) for side in image.size)
    left, top = round((width - 32) / 2), round((height - 32) / 2)
    expected = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 32, top + 32))
    assert np.array_equal(split.read([0])[0].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_calibration_is_held_out_of_train(preprocessing: Preprocessing, folder_root: Path) -> None:
    opened = imagefolder.load(preprocessing, root=folder_root, calibration_images=9)
    assert (len(opened.train), len(opened.calibration)) == (28, 9)
    assert not set(opened.train.names) & set(opened.calibration.names)  # type: ignore[attr-defined]


def test_at_most_half_of_each_class_is_held_out(preprocessing: Preprocessing, folder_root: Path) -> None:
    opened = imagefolder.load(preprocessing, root=folder_root, calibration_images=1000)
    assert opened.calibration.labels.bincount().tolist() == [10, 5, 3]
    assert opened.train.labels.bincount().tolist() == [10, 5, 4]


def test_a_calibration_folder_spares_train(preprocessing: Preprocessing, folder_root: Path) -> None:
    shutil.copytree(folder_root / "val", folder_root / "calibration")
    opened = imagefolder.load(preprocessing, root=folder_root, calibration_images=5)
    assert (len(opened.train), len(opened.calibration)) == (37, 5)


def test_a_test_folder_stands_in_for_val(preprocessing: Preprocessing, folder_root: Path) -> None:
    (folder_root / "val").rename(folder_root / "test")
    assert len(imagefolder.load(preprocessing, root=folder_root).test) == 13


def test_other_and_hidden_files_are_passed_over(preprocessing: Preprocessing, folder_root: Path) -> None:
    (folder_root / "val" / "ant" / "notes.txt").write_text("not an image")
    (folder_root / "val" / "ant" / "._00.png").write_bytes(b"what a Mac leaves behind")
    (folder_root / "val" / ".cache").mkdir()
    assert len(imagefolder.load(preprocessing, root=folder_root).test) == 13


def test_the_fingerprint_follows_files_and_not_their_place(
    preprocessing: Preprocessing, folder_root: Path, tmp_path: Path
) -> None:
    before = imagefolder.load(preprocessing, root=folder_root).fingerprint
    moved = folder_root.rename(tmp_path / "elsewhere")
    assert imagefolder.load(preprocessing, root=moved).fingerprint == before
    Image.new("RGB", (32, 32)).save(moved / "val" / "ant" / "00.png")
    changed = imagefolder.load(preprocessing, root=moved).fingerprint
    fewer = imagefolder.load(preprocessing, root=moved, calibration_images=3).fingerprint
    assert len({before, changed, fewer}) == 3


def test_no_root_is_refused(preprocessing: Preprocessing, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"There is no folder .*nowhere"):
        imagefolder.load(preprocessing, root=tmp_path / "nowhere")


def test_an_empty_root_is_refused(preprocessing: Preprocessing, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="holds no folder train"):
        imagefolder.load(preprocessing, root=tmp_path)


def test_classes_without_a_train_folder_are_refused(preprocessing: Preprocessing, folder_root: Path) -> None:
    with pytest.raises(InputRefused, match=r"holds class folders, but no folder train\. Lay it out as train/CLASS"):
        imagefolder.load(preprocessing, root=folder_root / "train")


def test_no_folder_for_accuracy_is_refused(preprocessing: Preprocessing, folder_root: Path) -> None:
    shutil.rmtree(folder_root / "val")
    with pytest.raises(InputRefused, match="neither a folder val nor a folder test"):
        imagefolder.load(preprocessing, root=folder_root)


def test_a_train_folder_without_classes_is_refused(preprocessing: Preprocessing, folder_root: Path) -> None:
    shutil.rmtree(folder_root / "train")
    (folder_root / "train").mkdir()
    with pytest.raises(InputRefused, match="train holds no class folder"):
        imagefolder.load(preprocessing, root=folder_root)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_class_is_refused(preprocessing: Preprocessing, folder_root: Path, split: str) -> None:
    for image in (folder_root / split / "bee").iterdir():
        image.unlink()
    with pytest.raises(InputRefused, match=rf"{split}.bee holds no image"):
        imagefolder.load(preprocessing, root=folder_root)


@pytest.mark.parametrize("split", ["val", "calibration"])
def test_a_class_that_train_lacks_is_refused(preprocessing: Preprocessing, folder_root: Path, split: str) -> None:
    shutil.copytree(folder_root / "val" / "ant", folder_root / split / "wasp")
    with pytest.raises(InputRefused, match=f"{split} holds the class 'wasp', which train doesn't"):
        imagefolder.load(preprocessing, root=folder_root)


def test_a_link_to_nowhere_is_refused(preprocessing: Preprocessing, folder_root: Path, tmp_path: Path) -> None:
    (folder_root / "val" / "ant" / "gone.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputRefused, match=r"gone\.png can't be read"):
        imagefolder.load(preprocessing, root=folder_root)


def test_a_damaged_image_is_named(preprocessing: Preprocessing, folder_root: Path) -> None:
    victim = folder_root / "val" / "bee" / "02.png"
    victim.write_bytes(victim.read_bytes()[:200])
    split = imagefolder.load(preprocessing, root=folder_root).test
    with pytest.raises(InputRefused, match=r"bee.02\.png can't be decoded"):
        split.read(range(len(split)))


def test_ants_and_bees(shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shared_data / "imagefolder" / "hymenoptera_256px_q90.zip") as archive:
        archive.extractall(tmp_path)
    size = Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    opened = imagefolder.load(size, root=tmp_path / "hymenoptera", calibration_images=44)
    assert opened.classes == ("ants", "bees")
    assert opened.calibration.labels.bincount().tolist() == [22, 22]
    assert opened.test.labels.bincount().tolist() == [70, 83]
    images = opened.test.read(range(16))
    assert images.shape == (16, 3, 224, 224)
    assert images.float().std() > 30
    assert torch.equal(images[3:5], opened.test.read([3, 4]))
