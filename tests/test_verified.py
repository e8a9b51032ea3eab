"""Kept answers: of this artifact and these images only, and no further apart than the order of sums explains."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescompress import verified
from rescompress.artifact import SCHEMA, VERIFIED, Artifact, Manifest, write_artifact
from rescompress.errors import InputRefused
from rescompress.spec import ModelSpec, Preprocessing

SPEC = ModelSpec("none", "none", 4, Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(20, 3, 8, 8)).astype(np.float32)
ANSWERS = RNG.normal(size=(20, 4)).astype(np.float32)


@pytest.fixture
def artifact(tmp_path):
    def fill(empty):
        (empty / "model").write_text("weights")
        return "model"

    names = (SCHEMA, "0", "none", "00-baseline", "fp32")
    return write_artifact(tmp_path / "a", fill, lambda entry, files: Manifest(*names, entry, files, SPEC, "", "", ""))


def test_first_sixteen_come_back_to_the_last_bit(artifact):
    verified.keep(artifact, IMAGES, ANSWERS, alone=True)
    found = verified.kept(artifact)
    np.testing.assert_array_equal(np.array(found.answers, np.float32), ANSWERS[:16])
    assert (verified.seen_again(found, IMAGES), found.alone) == (16, True)
    assert not verified.departs(found, artifact, ANSWERS)


def test_images_count_up_to_the_first_other_one(artifact):
    verified.keep(artifact, IMAGES, ANSWERS, alone=True)
    found, others = verified.kept(artifact), IMAGES.copy()
    others[5] += 1e-6
    assert verified.seen_again(found, others) == 5
    assert verified.seen_again(found, IMAGES[:3]) == 3
    assert verified.seen_again(found, IMAGES.transpose(0, 2, 3, 1)) == 0


def test_answers_of_another_artifact_and_broken_files_are_not_looked_at(artifact):
    assert verified.kept(artifact) is None
    verified.keep(artifact, IMAGES, ANSWERS, alone=True)
    other = replace(artifact.manifest, files={"model": "0" * 64})
    assert verified.kept(Artifact(artifact.folder, other)) is None
    file = artifact.folder / VERIFIED
    content = json.loads(file.read_text())
    for broken in ("", "[]", json.dumps({**content, "schema": "rescompress.verified/2"}), "\xff"):
        file.write_text(broken, "latin-1")
        assert verified.kept(artifact) is None


def test_sealed_artifact_stays_as_it_is(artifact):
    before = artifact.sha256, artifact.size_bytes, (artifact.folder / "manifest.json").read_bytes()
    verified.keep(artifact, IMAGES, ANSWERS, alone=True)
    assert before == (artifact.sha256, artifact.size_bytes, (artifact.folder / "manifest.json").read_bytes())


def test_place_that_can_not_be_written_is_refused(artifact):
    with pytest.raises(InputRefused):
        verified.keep(Artifact(artifact.folder / "model", artifact.manifest), IMAGES, ANSWERS, alone=True)


@given(st.sampled_from(["fp32", "int8"]), st.floats(0, 2), st.integers(0, 15), st.integers(0, 3))
def test_tolerance_is_a_share_of_the_largest_number(precision, share, row, column):
    manifest = Manifest(SCHEMA, "0", "none", "", precision, "model", {}, SPEC, "", "", "")
    artifact, moved = Artifact(None, manifest), ANSWERS[:16].copy()
    limit = {"fp32": 1e-3, "int8": 5e-2}[precision] * np.abs(ANSWERS[:16]).max()
    moved[row, column] += share * limit
    if abs(share - 1) > 1e-3:
        assert verified.apart(ANSWERS[:16], moved, artifact) == (share > 1)


def test_numbers_that_are_none_and_other_shapes_are_apart(artifact):
    assert verified.apart(ANSWERS, np.full_like(ANSWERS, np.nan), artifact)
    assert verified.apart(ANSWERS, ANSWERS[:, :3], artifact)


def test_rounded_floats_are_given_more_room(artifact):
    half = replace(artifact.manifest, knobs={"floats": "fp16"})
    assert verified.tolerance(Artifact(artifact.folder, half)) > verified.tolerance(artifact)


def test_of_maps_some_numbers_are_kept(artifact):
    maps = RNG.normal(size=(2, 5, 70, 70)).astype(np.float32)
    verified.keep(artifact, IMAGES[:2], maps, alone=True)
    found = verified.kept(artifact)
    assert 2000 < len(found.answers[0]) <= 4096
    assert not verified.departs(found, artifact, maps)
    assert verified.departs(found, artifact, maps[::-1])
