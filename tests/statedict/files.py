"""Checkpoints made by hand, honest and lying, in both forms of torch.save."""

import io
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rescompress.errors import RescompressError
from rescompress.statedict.scan import MAGIC

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "bn.count": torch.tensor(3)}
EMPTY = b"\x80\x02}."
"""The pickle of an empty dict."""


def saved(content: Any, zipped: bool = True) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def zip_of(pickled: bytes, *, method: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    """A zip file like torch.save's around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def legacy_of(pickled: bytes, place: int = 3) -> bytes:
    """A file of the old form with this pickle at one of its five places."""
    pickles = [MAGIC, b"\x80\x02M\xe9\x03.", EMPTY, EMPTY, b"\x80\x02]."]
    pickles[place] = pickled
    return b"".join(pickles)


def text(value: str) -> bytes:
    """The opcode that pushes a text."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def refusal(ask: Callable[[], object], kind: type[RescompressError]) -> RescompressError:
    """The refusal of a file, which must be fit for a person's eyes."""
    with pytest.raises(kind) as caught:
        ask()
    for sentence in (caught.value.fact, caught.value.remedy):
        assert re.fullmatch(r"[A-Z/][ -~]*[.?]", sentence), sentence
        assert not re.search(r"\w(Error|Exception)\b|Traceback", sentence), sentence
    return caught.value


def write(folder: Path, content: bytes, name: str = "odd.pt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path
