"""CIFAR-10 in both layouts, and every way in which its files can be wrong."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rescompress.data import _cifar10_files, cifar10
from rescompress.errors import InputRefused
from rescompress.spec import Preprocessing


def edited(path: Path, **changes: np.ndarray) -> None:
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    np.savez(path, **{**arrays, **changes})


def test_a_binary_record_is_a_label_and_three_planes(preprocessing: Preprocessing, binary_root: Path) -> None:
    test = cifar10.load(preprocessing, root=binary_root).test
    assert isinstance(test, cifar10.Rows)
    record = np.fromfile(binary_root / "cifar-10-batches-bin" / "test_batch.bin", np.uint8).reshape(-1, 3073)[
        test.rows[0]
    ]
    assert test.labels[0] == record[0]
    assert np.array_equal(test.read([0])[0].flatten().numpy(), record[1:])


def test_the_root_may_be_the_folder_itself(preprocessing: Preprocessing, binary_root: Path) -> None:
    inner = cifar10.load(preprocessing, root=binary_root / "cifar-10-batches-bin")
    assert inner.fingerprint == cifar10.load(preprocessing, root=binary_root).fingerprint


def test_calibration_is_held_out_of_all_five_batches(preprocessing: Preprocessing, binary_root: Path) -> None:
    opened = cifar10.load(preprocessing, root=binary_root, calibration_images=100)
    assert opened.calibration.labels.bincount().tolist() == [10] * 10
    assert (len(opened.train), len(opened.test)) == (200, 60)
    assert len({int(row) // 60 for row in opened.calibration.rows}) == 5  # type: ignore[attr-defined]


def test_packed_jpegs_are_decoded_once_and_only_where_read(
    preprocessing: Preprocessing, packed_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doing = []
    monkeypatch.setattr(_cifar10_files, "track", lambda rows, what: doing.append(what) or rows)
    opened = cifar10.load(preprocessing, root=packed_root, calibration_images=20)
    assert torch.equal(opened.test.read([0, 1])[1:], opened.test.read([1]))
    assert doing == ["decoding CIFAR-10's test split"]
    assert [len(split) for split in (opened.train, opened.calibration, opened.test)] == [60, 20, 40]


def test_another_size_is_resized_on_reading(preprocessing: Preprocessing, packed_root: Path) -> None:
    larger = Preprocessing(48, 40, preprocessing.mean, preprocessing.std)
    assert cifar10.load(larger, root=packed_root).test.read([0, 3]).shape == (2, 3, 40, 40)


def test_one_changed_byte_changes_the_fingerprint(preprocessing: Preprocessing, binary_root: Path) -> None:
    before = cifar10.load(preprocessing, root=binary_root).fingerprint
    batch = binary_root / "cifar-10-batches-bin" / "data_batch_3.bin"
    raw = bytearray(batch.read_bytes())
    raw[1] ^= 1
    batch.write_bytes(raw)
    assert cifar10.load(preprocessing, root=binary_root).fingerprint != before


@pytest.mark.parametrize("missing", [1, 3073])
def test_a_truncated_batch_is_refused(preprocessing: Preprocessing, binary_root: Path, missing: int) -> None:
    batch = binary_root / "cifar-10-batches-bin" / "data_batch_2.bin"
    batch.write_bytes(batch.read_bytes()[:-missing])
    with pytest.raises(InputRefused, match=r"data_batch_2\.bin is shorter"):
        cifar10.load(preprocessing, root=binary_root)


@pytest.mark.parametrize("length", [0, 3000])
def test_batches_of_broken_records_are_refused(preprocessing: Preprocessing, binary_root: Path, length: int) -> None:
    for batch in (binary_root / "cifar-10-batches-bin").iterdir():
        batch.write_bytes(bytes(length))
    with pytest.raises(InputRefused, match="not a whole number of 3073-byte records"):
        cifar10.load(preprocessing, root=binary_root)


def test_a_missing_batch_is_named(preprocessing: Preprocessing, binary_root: Path) -> None:
    (binary_root / "cifar-10-batches-bin" / "data_batch_4.bin").unlink()
    with pytest.raises(InputRefused, match=r"data_batch_4\.bin is missing"):
        cifar10.load(preprocessing, root=binary_root)


def test_a_label_above_9_is_refused(preprocessing: Preprocessing, binary_root: Path) -> None:
    batch = binary_root / "cifar-10-batches-bin" / "test_batch.bin"
    batch.write_bytes(b"\x0a" + batch.read_bytes()[1:])
    with pytest.raises(InputRefused, match=r"test_batch\.bin holds a label outside 0 to 9"):
        cifar10.load(preprocessing, root=binary_root)


def test_pickles_are_refused(preprocessing: Preprocessing, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"\x80\x02}q\x01.")
    for root in (tmp_path, folder):
        with pytest.raises(InputRefused, match=r"as pickles.*cifar-10-binary\.tar\.gz"):
            cifar10.load(preprocessing, root=root)


def test_an_empty_or_missing_root_is_refused(preprocessing: Preprocessing, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="holds no CIFAR-10"):
        cifar10.load(preprocessing, root=tmp_path)
    with pytest.raises(InputRefused, match="There is no folder"):
        cifar10.load(preprocessing, root=tmp_path / "nowhere")


def test_half_a_pair_of_archives_is_refused(preprocessing: Preprocessing, packed_root: Path) -> None:
    (packed_root / "cifar10_jpeg_test.npz").unlink()
    with pytest.raises(InputRefused, match=r"cifar10_jpeg_test\.npz is missing"):
        cifar10.load(preprocessing, root=packed_root)


def test_a_truncated_archive_is_refused(preprocessing: Preprocessing, packed_root: Path) -> None:
    archive = packed_root / "cifar10_jpeg_train.npz"
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(InputRefused, match=r"cifar10_jpeg_train\.npz is not an archive"):
        cifar10.load(preprocessing, root=packed_root)


def test_a_pickled_array_is_refused(preprocessing: Preprocessing, packed_root: Path) -> None:
    edited(packed_root / "cifar10_jpeg_test.npz", labels=np.array([{}], dtype=object))
    with pytest.raises(InputRefused, match="not an archive of packed JPEGs"):
        cifar10.load(preprocessing, root=packed_root)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.zeros(39, np.uint8)},
        {"labels": np.zeros((40, 1), np.uint8)},
        {"labels": np.zeros(40, np.float32)},
        {"header": np.zeros(600, np.int32)},
        {"offsets": np.arange(41, dtype=np.int32)},
        {"offsets": np.zeros(0, np.int32), "labels": np.zeros(0, np.uint8)},
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(
    preprocessing: Preprocessing, packed_root: Path, changes: dict[str, np.ndarray]
) -> None:
    edited(packed_root / "cifar10_jpeg_test.npz", **changes)
    with pytest.raises(InputRefused, match="don't fit together"):
        cifar10.load(preprocessing, root=packed_root)


def test_a_damaged_jpeg_is_named(preprocessing: Preprocessing, packed_root: Path) -> None:
    edited(packed_root / "cifar10_jpeg_test.npz", header=np.zeros(600, np.uint8))
    test = cifar10.load(preprocessing, root=packed_root).test
    with pytest.raises(InputRefused, match=r"Image \d+ of .*cifar10_jpeg_test\.npz can't be decoded"):
        test.read([0])


def test_a_jpeg_of_another_size_is_refused(preprocessing: Preprocessing, packed_root: Path) -> None:
    path = packed_root / "cifar10_jpeg_test.npz"
    with np.load(path) as archive:
        header = archive["header"].copy()
    start = header.tobytes().index(b"\xff\xc0") + 5
    header[start : start + 4] = (0, 16, 0, 64)
    edited(path, header=header)
    with pytest.raises(InputRefused, match=r"is not 32 x 32 pixels|can't be decoded"):
        cifar10.load(preprocessing, root=packed_root).test.read([0])


def test_the_real_images_as_jpegs(shared_data: Path, preprocessing: Preprocessing) -> None:
    started = time.monotonic()
    opened = cifar10.load(preprocessing, root=shared_data / "cifar10", calibration_images=500)
    assert [len(split) for split in (opened.train, opened.calibration, opened.test)] == [49_500, 500, 10_000]
    assert opened.calibration.labels.bincount().tolist() == [50] * 10
    assert opened.test.labels[:100].bincount().tolist() == [10] * 10
    images = opened.calibration.read(range(500))
    mean = images.double().mean((0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor([0.491, 0.482, 0.447]).double(), atol=0.03)
    assert time.monotonic() - started < 10, "calibration waited for the other splits"


def test_fewer_test_images_judge_as_many_of_each_class(preprocessing: Preprocessing, binary_root: Path) -> None:
    whole, few = (cifar10.load(preprocessing, root=binary_root, test_images=count) for count in (None, 20))
    assert few.test.labels.bincount().tolist() == [2] * 10
    assert torch.equal(few.test.read(range(20)), whole.test.read(range(20)))
    assert few.fingerprint != whole.fingerprint
