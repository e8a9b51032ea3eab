"""An artifact is whole or absent, and no byte of it changes unnoticed."""

import errno
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from rescompress import artifact
from rescompress.artifact import Artifact, Manifest, open_artifact, write_artifact, write_bytes, writing
from rescompress.errors import InputRefused, RescompressError, ResourceExhausted
from rescompress.spec import ModelSpec, Preprocessing, Proportion, VerificationRow

MODEL = ModelSpec("fake", "none", 10, Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
FILES = {"model.onnx": b"weights", "labels.txt": b"cat dog"}


def describe(entry: str, files: dict[str, str]) -> Manifest:
    return Manifest(artifact.SCHEMA, "0", "fake", "01-fit", "fp32", entry, files, MODEL, "none", "0" * 64, "key")


def fill(folder: Path, files: dict[str, bytes] = FILES) -> str:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return "model.onnx"


@pytest.fixture
def written(tmp_path: Path) -> Artifact:
    return write_artifact(tmp_path / "made" / "fake", fill, describe)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def full_disk(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)


def test_an_artifact_is_read_as_it_was_written(written: Artifact) -> None:
    opened = open_artifact(written.folder)
    assert opened == written
    assert opened.entry.read_bytes() == b"weights"
    assert opened.size_bytes == len(b"weights") + len(b"cat dog")
    assert names_in(written.folder) == {*FILES, artifact.MANIFEST}
    assert names_in(written.folder.parent) == {"fake"}


def test_its_digest_follows_every_file(written: Artifact, tmp_path: Path) -> None:
    again = write_artifact(tmp_path / "again", fill, describe)
    other = write_artifact(tmp_path / "other", lambda folder: fill(folder, {**FILES, "labels.txt": b"dog"}), describe)
    assert again.sha256 == written.sha256 != other.sha256


def fill_package(folder: Path) -> str:
    (folder / "model.package" / "weights").mkdir(parents=True)
    (folder / "model.package" / "weights" / "weight.bin").write_bytes(b"weights")
    (folder / "model.package" / "Manifest.json").write_bytes(b"{}")
    return "model.package/Manifest.json"


def test_an_artifact_may_hold_folders(tmp_path: Path) -> None:
    made = write_artifact(tmp_path / "made", fill_package, describe)
    opened = open_artifact(made.folder)
    assert set(opened.manifest.files) == {"model.package/Manifest.json", "model.package/weights/weight.bin"}
    assert opened.entry.read_bytes() == b"{}"
    (made.folder / "model.package" / "weights" / "weight.bin").write_bytes(b"others")
    with pytest.raises(InputRefused, match=r"weight\.bin is missing or was changed"):
        open_artifact(made.folder)


@pytest.mark.parametrize(
    "name",
    [
        *("../secret", "package/../../secret", "package/../secret", "./secret", "package//secret", "{absolute}"),
        *("linked", "folder/secret", "package\\secret", "C:secret", ".", ""),
    ],
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    made = write_artifact(tmp_path / "made", fill_package, describe)
    name = name.replace("{absolute}", str(tmp_path / "secret"))
    for place in (tmp_path, made.folder, made.folder / "model.package"):
        (place / "secret").write_bytes(b"secret")
    (made.folder / "linked").symlink_to(tmp_path / "secret")
    (made.folder / "folder").symlink_to(tmp_path)
    path = made.folder / artifact.MANIFEST
    content = json.loads(path.read_text())
    content["files"][name] = artifact.sha256_of(tmp_path / "secret")
    path.write_text(json.dumps(content))
    with pytest.raises(InputRefused, match="is missing or was changed"):
        open_artifact(made.folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["changed", "truncated", "emptied", "removed", "replaced by a folder"],
)
def test_every_changed_file_is_noticed(written: Artifact, name: str, harm: Callable[[Path], Any]) -> None:
    harm(written.folder / name)
    with pytest.raises(InputRefused, match=rf"{name} is missing or was changed"):
        open_artifact(written.folder)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b"\xff\xfe" * 20),
        lambda path: path.write_text("[]"),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["removed", "emptied", "truncated", "binary", "a list", "replaced by a folder"],
)
def test_a_broken_manifest_is_refused(written: Artifact, harm: Callable[[Path], Any]) -> None:
    harm(written.folder / artifact.MANIFEST)
    with pytest.raises(InputRefused, match=artifact.MANIFEST):
        open_artifact(written.folder)


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_what_is_no_folder_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputRefused, match="is not an artifact"):
        open_artifact(tmp_path / place)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "rescompress.artifact/2"},
        {"entry": "../secret.onnx"},
        {"entry": "extra.onnx"},
        {"files": {"../secret.onnx": "0" * 64}},
        {"files": {"/etc/hostname": "0" * 64}},
        {"model": None},
    ],
    ids=["another schema", "an entry outside", "an unchecked entry", "a file outside", "an absolute path", "no model"],
)
def test_a_manifest_that_lies_is_refused(written: Artifact, change: dict[str, Any]) -> None:
    (written.folder.parent / "secret.onnx").write_bytes(b"secret")
    (written.folder / "extra.onnx").write_bytes(b"unchecked")
    path = written.folder / artifact.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputRefused):
        open_artifact(written.folder)


def test_a_second_artifact_replaces_the_first(written: Artifact) -> None:
    second = write_artifact(written.folder, lambda folder: fill(folder, {"model.onnx": b"new"}), describe)
    assert names_in(written.folder) == {"model.onnx", artifact.MANIFEST}
    assert open_artifact(written.folder) == second
    assert names_in(written.folder.parent) == {"fake"}


def half_filled(folder: Path) -> str:
    (folder / "model.onnx").write_bytes(b"half")
    raise InputRefused("The model can't be expressed.", "Change it.")


def test_an_export_that_fails_leaves_what_stood_there(written: Artifact) -> None:
    with pytest.raises(InputRefused, match="can't be expressed"):
        write_artifact(written.folder, half_filled, describe)
    assert open_artifact(written.folder) == written
    assert names_in(written.folder.parent) == {"fake"}


def test_an_export_onto_a_full_disk_leaves_what_stood_there(written: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch)
    with pytest.raises(ResourceExhausted, match="disk is full"):
        write_artifact(written.folder, fill, describe)
    assert open_artifact(written.folder) == written
    assert names_in(written.folder.parent) == {"fake"}


def write_half(path: Path) -> None:
    with writing(path) as temporary:
        temporary.write_bytes(b"new")
        raise ZeroDivisionError


@pytest.mark.parametrize("old", [b"old", None])
def test_a_failure_while_writing_leaves_the_old_file(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(ZeroDivisionError):
        write_half(path)
    assert names_in(tmp_path) == ({"file"} if old else set())
    assert old is None or path.read_bytes() == old


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write_bytes(tmp_path / "file", b"old")
    full_disk(monkeypatch, number)
    with pytest.raises(ResourceExhausted) as refusal:
        write_bytes(tmp_path / "file", b"new")
    assert refusal.value.exit_code == 8
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names_in(tmp_path) == {"file"}


def test_a_success_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names_in(path.parent) == {"file"}
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("place", ["file/below", "folder"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputRefused, match="can't be written") as refusal:
        write_bytes(tmp_path / place, b"new")
    assert "-o" in refusal.value.remedy
    assert names_in(tmp_path) == {"file", "folder"}
    assert (tmp_path / "file").read_bytes() == b"old"


def test_an_unknown_failure_of_the_system_is_not_explained_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as failure:
        write_bytes(tmp_path / "file", b"new")
    assert not isinstance(failure.value, RescompressError)
    assert names_in(tmp_path) == set()


words = st.text('ab"\\\né\u2028')
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=10,
)


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@given(json_values)
def test_json_is_strict_whatever_the_value(value: Any) -> None:
    raw = artifact.to_json(value)
    json.loads(raw, parse_constant=refuse_constant)
    assert raw.endswith(b"\n")
    assert artifact.to_json(value) == raw


@pytest.mark.parametrize("number", [math.inf, -math.inf, 1.5, 1e-300])
def test_a_row_comes_back_from_json(number: float) -> None:
    half = Proportion(1, 2)
    row = VerificationRow("01-fit", "fake", "noise", None, half, 0.0, number, half, "fp32", ("Too slow.",))
    assert TypeAdapter(VerificationRow).validate_json(artifact.to_json(row)) == row


def test_no_number_comes_back_as_none() -> None:
    half = Proportion(1, 2)
    row = VerificationRow("01-fit", "fake", "noise", None, half, 0.0, math.nan, half, "fp32", ())
    back = TypeAdapter(VerificationRow).validate_json(artifact.to_json(row))
    assert math.isnan(back.sqnr_db)
    assert replace(back, sqnr_db=0.0) == replace(row, sqnr_db=0.0)


@given(st.dictionaries(words, st.integers(), min_size=2, max_size=5))
def test_equal_values_have_equal_digests(value: dict[str, int]) -> None:
    turned = dict(reversed(value.items()))
    assert artifact.digest(value) == artifact.digest(turned)
    assert artifact.digest(value) != artifact.digest({**value, next(iter(value)): -(10**9)})


def test_a_files_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert artifact.sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_the_manifest_names_the_network(written: Artifact) -> None:
    manifest = json.loads((written.folder / artifact.MANIFEST).read_text())
    assert manifest["model"] == json.loads(json.dumps(asdict(MODEL)))
