"""What an artifact answered when it was verified, kept beside its manifest: a benchmark must compute the same.

The file is no part of the sealed artifact: it may be missing, and one of another artifact is not looked at.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from rescompress.artifact import VERIFIED, Artifact, to_json, write_bytes

IMAGES = 16
"""Kept at most; MLPerf's TEST01 samples outputs of a timed run likewise."""
_NUMBERS = 4096  # kept of each image, evenly spaced: feature maps are millions
_SMALL, _LARGE = 1e-3, 5e-2
Schema = Literal["rescompress.verified/1"]
Answers = NDArray[np.float32]


@dataclass(frozen=True)
class Verified:
    """The first answers of an artifact.

    Attributes:
        artifact_sha256: whose answers they are.
        images_sha256: of each image, as the artifact takes it.
        answers: numbers per image: logits, probabilities, or some of its maps.
        alone: whether an image's answer depends on nothing but the image; else also on its neighbours in the batch.
    """

    schema: Schema
    artifact_sha256: str
    images_sha256: tuple[str, ...]
    answers: tuple[tuple[float, ...], ...]
    alone: bool = True


def keep(artifact: Artifact, images: NDArray[np.float32] | NDArray[np.uint8], answers: Answers, alone: bool) -> None:
    """Write the first answers beside the manifest.

    Args:
        artifact: that gave them.
        images: that it was shown, one a row.
        answers: one row an image.
        alone: whether an image's answer depends on nothing but the image.

    Raises:
        InputRefused: the folder can't be written.
    """
    digests = tuple(_digest(image) for image in images[:IMAGES])
    numbers = tuple(tuple(row) for row in _some(answers[:IMAGES]).tolist())
    content = Verified("rescompress.verified/1", artifact.sha256, digests, numbers, alone)
    write_bytes(artifact.folder / VERIFIED, to_json(content))


def kept(artifact: Artifact) -> Verified | None:
    """What was kept of this very artifact; None where there is nothing, or nothing that can be read."""
    try:
        found = TypeAdapter(Verified).validate_json((artifact.folder / VERIFIED).read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.artifact_sha256 == artifact.sha256 and found.images_sha256 else None


def seen_again(found: Verified, images: NDArray[np.float32] | NDArray[np.uint8]) -> int:
    """How many of the images that it was verified on come first here too."""
    same = [_digest(image) == digest for image, digest in zip(images, found.images_sha256, strict=False)]
    return (*same, False).index(False)


def departs(found: Verified, artifact: Artifact, answers: Answers) -> bool:
    """Whether the answers to the same images are others than those that were kept.

    Args:
        found: what was kept.
        artifact: that answered.
        answers: to the first images that it was verified on, one row an image.
    """
    count = min(len(answers), len(found.answers))
    return apart(np.array(found.answers[:count], np.float32), _some(answers[:count]), artifact)


def apart(expected: Answers, answers: Answers, artifact: Artifact) -> bool:
    """Whether two answers to the same images are further apart than other orders of the same sums explain.

    Batches of another size and other threads sum in another order: ``tolerance`` times the largest expected number may
    lie between two answers. Then both name the same class, unless two classes were as near to each other.
    """
    if expected.shape != answers.shape:
        return True
    limit = tolerance(artifact) * float(np.abs(expected).max(initial=0))
    return not bool((np.abs(answers - expected) <= limit).all())  # what is not a number is within no limit


def tolerance(artifact: Artifact) -> float:
    """Largest difference by the largest number: a thousandth in FP32, five hundredths where values are rounded.

    There a sum that lies on the edge between two integers may fall to either side, and layers behind it follow.
    """
    exact = artifact.manifest.precision in ("fp32", "w8", "w4") and artifact.manifest.floats == "fp32"
    return _SMALL if exact else _LARGE


def _digest(image: NDArray[np.float32] | NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def _some(answers: Answers) -> Answers:
    """All numbers of each image, or evenly spaced ones of many."""
    flat = np.asarray(answers, np.float32).reshape(len(answers), -1)
    return flat[:, :: math.ceil(flat.shape[1] / _NUMBERS) or 1]
