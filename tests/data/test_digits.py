"""The digits: all 1,797, no two alike, split the same way for everyone."""

import sys

import pytest
import torch

from rescompress.data import digits
from rescompress.errors import BackendMissing
from rescompress.spec import Preprocessing


def test_all_digits_are_dealt_out(preprocessing: Preprocessing) -> None:
    opened = digits.load(preprocessing)
    splits = (opened.train, opened.calibration, opened.test)
    assert [len(split) for split in splits] == [1078, 359, 360]
    images = torch.cat([split.read(range(len(split))) for split in splits])
    assert len({image.numpy().tobytes() for image in images}) == 1797
    assert (images[:, 0] == images[:, 1]).all()
    assert (images[:, 0] == images[:, 2]).all()


def test_grey_values_span_the_whole_range(preprocessing: Preprocessing) -> None:
    unscaled = Preprocessing(8, 8, preprocessing.mean, preprocessing.std)
    images = digits.load(unscaled).train.read(range(1078))
    assert images.min() == 0
    assert images.max() == 255
    assert len(images.unique()) == 17


@pytest.mark.parametrize("split", ["train", "calibration", "test"])
def test_every_split_holds_the_classes_evenly(preprocessing: Preprocessing, split: str) -> None:
    labels = getattr(digits.load(preprocessing), split).labels
    expected = torch.tensor([178, 182, 177, 183, 181, 182, 181, 179, 174, 180]) * len(labels) / 1797
    assert (labels.bincount(minlength=10) - expected).abs().max() <= 1


def test_the_split_does_not_depend_on_the_size(preprocessing: Preprocessing) -> None:
    small = digits.load(Preprocessing(8, 8, preprocessing.mean, preprocessing.std))
    assert torch.equal(small.test.labels, digits.load(preprocessing).test.labels)


def test_without_scikit_learn_the_remedy_is_a_pip_line(
    preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(BackendMissing) as refused:
        digits.load(preprocessing)
    assert "pip install 'rescompress[demo]'" in refused.value.remedy
