"""Who takes part in a benchmark: the artifacts, a second copy of the baseline, and the images of each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rescompress.artifact import Artifact, open_artifact
from rescompress.backends import Images
from rescompress.errors import InputRefused

COPY = " (A/A)"
"""What the name of the baseline's second copy ends with."""
_DISTINCT_BATCHES = 64


@dataclass(frozen=True)
class Candidates:
    """One entry per candidate in each tuple: the artifacts in the order they were named, then the baseline again.

    Attributes:
        artifacts: the first and the last are the baseline.
        names: label and backend, unique.
        rings: images as each takes them, so many that a batch can start at 64 places.
        batch: images per query.
    """

    artifacts: tuple[Artifact, ...]
    names: tuple[str, ...]
    rings: tuple[Images, ...]
    batch: int

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the artifacts lie."""
        return tuple(artifact.folder for artifact in self.artifacts)


def gathered(folders: Sequence[Path], images: Images | Sequence[Images], batch: int) -> Candidates:
    """Open the artifacts, name them and lay out the images of each.

    Args:
        folders: of the artifacts; the first is the baseline.
        images: one array for all, or one for each.
        batch: images per query.

    Raises:
        InputRefused: there is no artifact, no image, or an artifact's files were changed.
    """
    if not folders:
        raise InputRefused("There is no artifact to time.", "Name at least one exported folder.")
    opened = [open_artifact(folder) for folder in folders]
    given = [images] * len(folders) if isinstance(images, np.ndarray) else list(images)
    rings = tuple(_ring(one, batch) for one in (*given, given[0]))
    return Candidates((*opened, opened[0]), _names(opened), rings, batch)


def _ring(images: Images, batch: int) -> Images:
    """So many images that a batch can start at 64 places, the given ones over and over."""
    if images.ndim != 4 or 0 in images.shape:
        raise InputRefused(f"Images of shape {images.shape} can't be timed.", "Give at least one image [n, 3, h, w].")
    return np.resize(images, (_DISTINCT_BATCHES + batch - 1, *images.shape[1:]))


def _names(opened: Sequence[Artifact]) -> tuple[str, ...]:
    """One unique name per candidate, the copy of the baseline last."""
    seen: Counter[str] = Counter()
    names = []
    for artifact in opened:
        name = f"{artifact.manifest.label} {artifact.manifest.backend}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return (*names, f"{names[0]}{COPY}")
