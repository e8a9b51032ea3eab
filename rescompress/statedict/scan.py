"""What kind of checkpoint a file is, told from its bytes: nothing in it is executed, unpickled or unpacked."""

import io
from pathlib import Path
from typing import Literal

from rescompress.errors import InputRefused
from rescompress.statedict import opcodes, zipped
from rescompress.statedict.opcodes import AGAIN, SAVE

Kind = Literal["torch", "hdf5"]
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of a file from before PyTorch 1.6: the number 0x1950a86a20f9469cfc6c."""
ENGINES = (".plan", ".engine", ".trt")
OTHERS = (
    (b"\x93NUMPY", "is an array of NumPy", SAVE),
    (b"\x1f\x8b", "is compressed with gzip", "Unpack it first."),
    (b"\xfd7zXZ", "is compressed with xz", "Unpack it first."),
    (b"BZh", "is compressed with bzip2", "Unpack it first."),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file behind it", "Fetch the file: git lfs pull."),
    (b"<", "is a web page or XML", "Download the file itself, not the page about it."),
)


def kind_of(path: Path) -> Kind:
    """Tell a state dict of ``torch.save`` or HDF5 weights; refuse everything else.

    Raises:
        InputRefused: naming what the file is instead, or what it would run.
    """
    if not path.is_file():
        raise InputRefused(f"There is no file {path}.", "Check the path.")
    try:
        with path.open("rb") as file:
            head = file.read(opcodes.LONGEST_PICKLE)
    except OSError as error:
        raise InputRefused(
            f"{path} can't be read: {(error.strerror or 'refused').lower()}.", "Check the path and its rights."
        ) from None
    if path.suffix in ENGINES or head.startswith((b"ftrt", b"ptrt")):
        raise InputRefused(
            f"{path} is a TensorRT engine, and loading one from elsewhere runs its native code.",
            "Give the checkpoint that it was built from.",
        )
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if path.suffix == ".h5":
        raise InputRefused(f"{path} is no HDF5 file, or is truncated or corrupt.", AGAIN)
    if head.startswith(b"PK\x03\x04"):
        zipped.check(path)
        return "torch"
    _check_legacy(path, head)
    return "torch"


def _check_legacy(path: Path, head: bytes) -> None:
    """Walk the five pickles that stand before the tensors: magic number, version, system, names, order."""
    if head[257:262] == b"ustar":
        raise InputRefused(f"{path} is a tar archive, the form of PyTorch before 0.2 or a packed folder.", SAVE)
    for start, what, remedy in OTHERS:
        if head.startswith(start):
            raise InputRefused(f"{path} {what}.", remedy)
    if not head.startswith(MAGIC):
        if head.startswith(b"\x80"):
            opcodes.check(path, io.BytesIO(head))  # one that would run code is refused as such
            raise InputRefused(f"{path} is a bare pickle, and torch.save didn't write it.", SAVE)
        raise InputRefused(f"{path} is no plain state dict: torch.save didn't write it, or it is corrupt.", AGAIN)
    stream = io.BytesIO(head)
    for _ in range(5):
        opcodes.check(path, stream)
