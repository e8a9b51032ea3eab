"""The HDF5 weights of Keras, in the form of Keras 2 (``.h5``) and of Keras 3 (``.weights.h5``).

Links and datasets that lead out of the file are refused, as is what is larger than the file could hold.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rescompress.errors import InputRefused
from rescompress.statedict.opcodes import shown
from rescompress.statedict.sandbox import Limits

MOST_OBJECTS, DEEPEST = 20_000, 32
ROOT = "model_weights/"
OPTIMIZERS = ("optimizer_weights/", "optimizer/")
SAVE = "Save the weights alone: model.save_weights('model.weights.h5')."


def read_hdf5(path: Path, granted: Limits) -> dict[str, Tensor]:
    """Every floating-point dataset by its path, less the optimizer's.

    Raises:
        InputRefused: it has links, outside storage, too many objects, or claims more bytes than it holds.
    """
    h5py = importlib.import_module("h5py")  # it is not in the default install
    tensors: dict[str, Tensor] = {}
    left = granted.file_bytes
    with h5py.File(path, "r") as file:
        for name, dataset in _datasets(h5py, file):
            if dataset.dtype.kind != "f" or dataset.shape is None or name.startswith(OPTIMIZERS):
                continue
            if dataset.is_virtual or dataset.external:
                raise InputRefused(f"keeps {shown(name)} in another file.", SAVE)
            left -= dataset.size * dataset.dtype.itemsize
            if left < 0:
                raise InputRefused("claims more bytes of weights than it holds.", SAVE)
            values = np.asarray(dataset[()])  # a dataset without axes comes out as a number
            tensors[name.removeprefix(ROOT)] = torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))
    return tensors


def _datasets(h5py: Any, file: Any) -> Iterator[tuple[str, Any]]:
    """Datasets by path, in alphabetical order; hard links only, so nothing leads out of the file."""
    waiting, seen = [("", file)], 0
    while waiting:
        path, found = waiting.pop()
        if isinstance(found, h5py.Dataset):
            yield path, found
            continue
        for name in sorted(found, reverse=True):
            seen += 1
            inner = f"{path}/{name}".lstrip("/")
            if seen > MOST_OBJECTS or inner.count("/") >= DEEPEST:
                raise InputRefused("has more groups and datasets than weights need.", SAVE)
            if not isinstance(found.get(name, getlink=True), h5py.HardLink):
                raise InputRefused(f"has a link at {shown(inner)} that may lead out of it.", SAVE)
            if isinstance(found[name], (h5py.Group, h5py.Dataset)):
                waiting.append((inner, found[name]))
