"""Handwritten digits that scikit-learn ships: 1,797 images of 8 x 8 pixels, no download."""

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from rescompress.data import Data, InMemory
from rescompress.data._images import fit
from rescompress.data._splits import balanced_order, digest, indices_bytes
from rescompress.errors import BackendMissing
from rescompress.spec import Preprocessing

TRAIN_SHARE, CALIBRATION_SHARE = 0.6, 0.2


def load(preprocessing: Preprocessing) -> Data:
    """Scikit-learn's 1,797 handwritten digits: 60 % train, 20 % calibration, 20 % test.

    No two of the images are equal, so none straddles the splits. Grey values 0 to 16 become 0 to 255 in three equal
    channels. The set is a part of E. Alpaydin and C. Kaynak's "Optical Recognition of Handwritten Digits", UCI, 1998.

    Args:
        preprocessing: size of the images.

    Raises:
        BackendMissing: scikit-learn is not installed.
    """
    grey, labels = _read()
    images = torch.stack([fit(Image.fromarray(image), preprocessing) for image in grey])
    order = balanced_order(labels)
    cuts = [int(len(order) * share) for share in (TRAIN_SHARE, TRAIN_SHARE + CALIBRATION_SHARE)]
    parts = order.tensor_split(cuts)
    train, calibration, test = (InMemory(images[part].expand(-1, 3, -1, -1), labels[part]) for part in parts)
    size = f"{preprocessing.resize} {preprocessing.crop}"
    fingerprint = digest(["digits", size, grey.tobytes(), indices_bytes(labels), *map(indices_bytes, parts)])
    return Data("digits", tuple("0123456789"), train, calibration, test, fingerprint)


def _read() -> tuple[UInt8[np.ndarray, "n 8 8"], Int[Tensor, " n"]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise BackendMissing(
            "The digits need scikit-learn, which is not installed.", "Run: pip install 'rescompress[demo]'"
        ) from error
    digits = load_digits()
    grey = np.rint(digits.images * 255 / 16).astype(np.uint8)
    return grey, torch.from_numpy(digits.target.astype(np.int64))
