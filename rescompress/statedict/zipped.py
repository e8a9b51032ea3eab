"""The zip form of ``torch.save``, checked member by member before anything else reads it.

PyTorch's own zip reader and Python's must not see two different files in one, so what they could read differently is
refused: names that differ in case only, headers that disagree, members that overlap, bytes behind the end.
"""

import io
import struct
import zipfile
from pathlib import Path

from rescompress.errors import InputRefused
from rescompress.statedict import opcodes
from rescompress.statedict.opcodes import AGAIN, LONGEST_PICKLE, SAVE

MOST_MEMBERS, LONGEST_DIRECTORY = 20_000, 4 * 2**20
END, END_64, LOCAL = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4s5H3L2H")


def check(path: Path) -> None:
    """Check the members of a zip file, then the pickle in it.

    Raises:
        InputRefused: it is corrupt, compressed, lies about its sizes, or is no state dict.
    """
    try:
        with path.open("rb") as file:
            start = _directory(path, file)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                _refuse_others(path, {member.filename for member in members})
                _check_members(path, members)
                _check_places(path, file, members, start)
                pickled = _pickle_of(path, members)
                opcodes.check(path, io.BytesIO(archive.read(pickled)))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, struct.error, ValueError, EOFError, OSError):
        raise _corrupt(path) from None


def _directory(path: Path, file: io.BufferedReader) -> int:
    """Where the list of members begins; it must be short and end where the file ends."""
    size = file.seek(0, 2)
    file.seek(max(0, size - END.size - 20 - END_64.size))
    tail = file.read()
    end = END.unpack(tail[-END.size :])
    if end[0] != b"PK\x05\x06" or end[7]:
        raise _corrupt(path)
    count, length, offset, stop = end[4], end[5], end[6], size - END.size
    if tail[-END.size - 20 :].startswith(b"PK\x06\x07"):
        wide = END_64.unpack(tail[: END_64.size])
        if wide[0] != b"PK\x06\x06":
            raise _corrupt(path)
        count, length, offset, stop = *wide[7:], size - END.size - 20 - END_64.size
    if count > MOST_MEMBERS or length > LONGEST_DIRECTORY:
        raise InputRefused(
            f"{path} is no plain state dict: it has more than {MOST_MEMBERS:,} members or overlong names.", SAVE
        )
    if offset + length != stop:
        raise _corrupt(path)
    return int(offset)


def _refuse_others(path: Path, names: set[str]) -> None:
    """Other things that are zip files too."""
    inner = {name.partition("/")[2] for name in names}
    if "model.weights.h5" in names or {"config.json", "metadata.json"} <= names:
        raise InputRefused(
            f"{path} is a whole Keras model, whose layers may hold code.",
            "Save its weights alone: model.save_weights('model.weights.h5').",
        )
    if names and all(name.endswith(".npy") for name in names):
        raise InputRefused(f"{path} is an archive of NumPy arrays.", SAVE)
    if "archive_format" in inner or "serialized_exported_program.json" in names or path.suffix == ".pt2":
        raise InputRefused(f"{path} is an archive of torch.export.", SAVE)
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise InputRefused(
            f"{path} is a TorchScript archive, which holds code.",
            "Save the weights alone: torch.save(torch.jit.load(PATH).state_dict(), PATH).",
        )


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Names that mean one thing, sizes that fit the file."""
    if any(m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size for m in members):
        raise InputRefused(
            f"{path} is no plain state dict: its members are compressed, which torch.save never does.",
            "Save it again with torch.save, or unpack it first if it is a packed folder.",
        )
    names = [member.filename for member in members]
    apart = {name.casefold() for name in names}
    if len(apart) != len(names):
        raise InputRefused(f"{path} is no plain state dict: two members share one name.", AGAIN)
    for member in members:
        if set(member.filename.split("/")) & {"", ".", ".."} or not _is_plain(member):
            raise InputRefused(
                f"{path} is no plain state dict: a member is named {opcodes.shown(member.orig_filename)!r}.", AGAIN
            )
    if len(members) > MOST_MEMBERS or sum(member.file_size for member in members) > path.stat().st_size:
        raise InputRefused(f"{path} is no plain state dict: its members claim more bytes than the file has.", AGAIN)


def _is_plain(member: zipfile.ZipInfo) -> bool:
    name = member.filename
    return name == member.orig_filename and name.isprintable() and "\\" not in name and not member.flag_bits & 1


def _check_places(path: Path, file: io.BufferedReader, members: list[zipfile.ZipInfo], start: int) -> None:
    """Every member's own header says what the list says, and no two share a byte."""
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        file.seek(member.header_offset)
        header = LOCAL.unpack(file.read(LOCAL.size))
        name = file.read(header[9]).decode("utf-8" if header[2] & 0x800 else "cp437")
        if header[0] != b"PK\x03\x04" or header[3] or name != member.filename or member.header_offset < end:
            raise _corrupt(path)
        end = member.header_offset + LOCAL.size + header[9] + header[10] + member.file_size
    if end > start:
        raise _corrupt(path)


def _pickle_of(path: Path, members: list[zipfile.ZipInfo]) -> zipfile.ZipInfo:
    """The one pickle of the archive, whose members lie in one folder."""
    found = [member for member in members if member.filename.endswith("/data.pkl")]
    roots = {member.filename.partition("/")[0] for member in members}
    if len(found) != 1 or len(roots) != 1 or found[0].filename.count("/") != 1:
        raise InputRefused(f"{path} is no plain state dict: it is a zip file that torch.save didn't write.", SAVE)
    if found[0].file_size > LONGEST_PICKLE:
        raise InputRefused(f"{path} is no plain state dict: its pickle is longer than {LONGEST_PICKLE:,} bytes.", SAVE)
    return found[0]


def _corrupt(path: Path) -> InputRefused:
    return InputRefused(f"{path} is no plain state dict: its zip archive is truncated or corrupt.", AGAIN)
