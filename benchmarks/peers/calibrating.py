"""rescompress: photos of an archive to a file of statistics of every value, which serves any runtime and observer.

Unlike the scripts beside it, it takes an archive of JPEGs for the images, and says how many with the variant.
"""

import csv
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measured


@dataclass(frozen=True)
class Photos:
    """The photos of an archive in its order, decoded when they are read."""

    archive: zipfile.ZipFile
    files: tuple[str, ...]
    labels: Any

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int]) -> Any:
        """The middle 224 of 256 pixels ``[b, 3, 224, 224]``."""
        import numpy as np
        import torch
        from PIL import Image

        images = [Image.open(io.BytesIO(self.archive.read(self.files[i]))).convert("RGB") for i in indices]
        pixels = np.stack([np.asarray(image.crop((16, 16, 240, 240))) for image in images])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def calibrate(weights: Path, images: Path, out: Path, variant: str) -> str:
    """As ``rescompress calibrate`` does it."""
    import torch

    import rescompress
    from rescompress.context import Context
    from rescompress.data import Data

    archive = zipfile.ZipFile(images)
    rows = list(csv.DictReader(io.StringIO(archive.read("labels.csv").decode("utf-8"))))[: int(variant)]
    split = Photos(archive, tuple(row["file"] for row in rows), torch.tensor([int(row["label"]) for row in rows]))
    model = rescompress.load(weights)
    data = Data("photos", tuple(f"class {k}" for k in range(1000)), split, split, split, "photos")
    context = Context(data, reference=model)
    file = out / "statistics.safetensors"
    rescompress.calibrate(rescompress.fuse(model, context), context, file, calibration_images=len(split))
    return file.name


if __name__ == "__main__":
    measured.main(calibrate, ("rescompress", "torch"))
