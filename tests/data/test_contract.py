"""Every file in rescompress/data keeps the contract: three disjoint splits, the same in every run."""

from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rescompress import catalog, data
from rescompress.data import Data, InMemory, Split
from rescompress.errors import InputRefused, RecipeError
from rescompress.spec import Preprocessing

ROOTS = {"cifar10": "binary_root", "imagefolder": "folder_root"}
ROOTLESS = ("digits",)
SPLITS = ("train", "calibration", "test")


@pytest.fixture(params=catalog.names(data.PACKAGE))
def source(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Name of a source and the knobs that open a small one."""
    name = request.param
    if name in ROOTLESS:
        return name, {}
    if name not in ROOTS:
        pytest.skip(f"No small root is made for {name}.")
    return name, {"root": request.getfixturevalue(ROOTS[name]), "calibration_images": 12}


@pytest.fixture
def opened(source: tuple[str, dict[str, Any]], preprocessing: Preprocessing) -> Data:
    name, knobs = source
    return data.load(name, preprocessing, **knobs)


def every_image(split: Split) -> torch.Tensor:
    return split.read(range(len(split)))


def keys(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in every_image(split)}


def test_splits_are_bytes_of_the_asked_size(opened: Data, preprocessing: Preprocessing) -> None:
    for name in SPLITS:
        split = getattr(opened, name)
        images = split.read([len(split) - 1, 0])
        assert images.dtype == torch.uint8
        assert images.shape == (2, 3, preprocessing.crop, preprocessing.crop)


def test_reading_nothing_gives_no_image(opened: Data) -> None:
    assert opened.test.read([]).shape == (0, 3, 32, 32)


def test_reading_takes_any_order(opened: Data) -> None:
    forth, back = opened.test.read([0, 1, 2]), opened.test.read([2, 1, 0])
    assert torch.equal(forth, back.flip(0))


def test_labels_index_the_classes(opened: Data) -> None:
    for name in SPLITS:
        split = getattr(opened, name)
        assert split.labels.dtype == torch.int64
        assert split.labels.shape == (len(split),)
        assert set(split.labels.tolist()) == set(range(len(opened.classes)))


def test_no_image_is_in_two_splits(opened: Data) -> None:
    found = {name: keys(getattr(opened, name)) for name in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not found[one] & found[other]


def test_the_first_images_hold_the_classes_evenly(opened: Data) -> None:
    for name in SPLITS:
        labels = getattr(opened, name).labels
        half = len(labels) // 2
        share = labels.bincount() * half / len(labels)
        assert (labels[:half].bincount(minlength=len(opened.classes)) - share).abs().max() <= 1.5


def test_two_loads_are_equal(source: tuple[str, dict[str, Any]], opened: Data, preprocessing: Preprocessing) -> None:
    name, knobs = source
    again = data.load(name, preprocessing, **knobs)
    assert again.fingerprint == opened.fingerprint
    for split in SPLITS:
        assert torch.equal(every_image(getattr(again, split)), every_image(getattr(opened, split)))
        assert torch.equal(getattr(again, split).labels, getattr(opened, split).labels)


def test_the_fingerprint_follows_the_size_of_the_images(source: tuple[str, dict[str, Any]], opened: Data) -> None:
    name, knobs = source
    cropped = Preprocessing(32, 28, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    other = data.load(name, cropped, **knobs)
    assert other.fingerprint != opened.fingerprint
    assert torch.equal(other.test.read([0]), opened.test.read([0])[:, :, 2:30, 2:30])


def test_a_crop_larger_than_the_image_is_refused(source: tuple[str, dict[str, Any]]) -> None:
    name, knobs = source
    with pytest.raises(RecipeError, match="crop of 40 pixels"):
        data.load(name, Preprocessing(32, 40, (0, 0, 0), (1, 1, 1)), **knobs).test.read([0])


def test_batches_are_normalized_and_limited(opened: Data, preprocessing: Preprocessing) -> None:
    read = list(data.batches(opened.test, preprocessing, batch=4, limit=6))
    assert [len(images) for images, _ in read] == [4, 2]
    assert torch.equal(torch.cat([labels for _, labels in read]), opened.test.labels[:6])
    raw = opened.test.read([5])[0].double()
    for channel, (mean, std) in enumerate(zip(preprocessing.mean, preprocessing.std, strict=True)):
        expected = (raw[channel] / 255 - mean) / std
        assert torch.allclose(read[1][0][1, channel].double(), expected, atol=1e-6)


def test_batches_without_a_limit_read_everything(opened: Data, preprocessing: Preprocessing) -> None:
    count = len(opened.calibration)
    assert sum(len(images) for images, _ in data.batches(opened.calibration, preprocessing, batch=5)) == count
    beyond = data.batches(opened.calibration, preprocessing, batch=count, limit=count + 1)
    assert [len(images) for images, _ in beyond] == [count]


def test_an_unknown_source_is_told_its_neighbour(preprocessing: Preprocessing) -> None:
    with pytest.raises(RecipeError, match="Did you mean 'digits'"):
        data.load("digit", preprocessing)


def test_an_empty_split_is_refused(preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch) -> None:
    some = InMemory(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    none = InMemory(some.images[:0], some.labels[:0])
    made = Data("bare", ("a", "b"), some, none, some, "bare")
    monkeypatch.setattr(data.catalog, "load", lambda package, name: SimpleNamespace(load=lambda preprocessing: made))
    with pytest.raises(InputRefused, match="calibration split of bare holds no image"):
        data.load("bare", preprocessing)


def test_a_knob_of_a_source_is_checked_and_turned_into_its_type(
    preprocessing: Preprocessing, folder_root: Path
) -> None:
    assert len(data.load("imagefolder", preprocessing, root=str(folder_root)).test)
    with pytest.raises(RecipeError, match="imagefolder has no knob 'rot'"):
        data.load("imagefolder", preprocessing, root=folder_root, rot=90)


def test_images_in_memory_are_read_by_place() -> None:
    split = InMemory(torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2), torch.tensor([1, 0]))
    assert len(split) == 2
    assert torch.equal(split.read([1])[0], split.images[1])
