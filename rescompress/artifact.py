"""An exported model on disk: a folder with its files, their hashes and a manifest, written atomically."""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from rescompress.errors import InputRefused, ResourceExhausted
from rescompress.spec import Floats, LayerCost, ModelSpec, Precision

MANIFEST, VERIFIED = "manifest.json", "verified.json"
"""What an artifact is, and what it answered when it was verified, which comes later and is no part of it."""
SCHEMA = "rescompress.artifact/1"


@dataclass(frozen=True)
class Manifest:
    """What an artifact's folder holds.

    Attributes:
        backend: the runtime that the artifact was exported for.
        label: the stage that it was exported from, such as ``04-quantize``.
        entry: the file that the runtime loads.
        files: SHA-256 of each file, by its path in the folder, with slashes.
        precision: what of the model is integers.
        source_sha256: SHA-256 of the checkpoint that was exported.
        key: digest of everything that the artifact depends on.
        knobs: of the backend's ``export``, each with its value. ``preprocess`` and ``softmax`` say what goes in and
            comes out, ``floats`` what is computed in where integers aren't.
        notes: what exporting had to say, a sentence each.
        costs: of each convolution and linear layer of the model, for one image.
    """

    schema: str
    tool_version: str
    backend: str
    label: str
    precision: Precision
    entry: str
    files: dict[str, str]
    model: ModelSpec
    source: str
    source_sha256: str
    key: str
    knobs: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    costs: tuple[LayerCost, ...] = ()

    @property
    def floats(self) -> Floats:
        """What is computed in where integers aren't."""
        return cast(Floats, self.knobs.get("floats", "fp32"))

    @property
    def rounds_weights(self) -> bool:
        """Whether exporting has rounded weights that the model has in float."""
        return bool(self.knobs.get("weights", "kept") != "kept")

    @property
    def takes_pixels(self) -> bool:
        """Whether it takes bytes ``[n, h, w, 3]``, RGB, as decoded and cropped; else normalized ``[n, 3, h, w]``."""
        return bool(self.knobs.get("preprocess"))

    @property
    def gives_probabilities(self) -> bool:
        """Whether it gives probabilities; else logits or maps."""
        return bool(self.knobs.get("softmax"))


@dataclass(frozen=True)
class Artifact:
    """An artifact whose files have been checked against its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def entry(self) -> Path:
        """The file that the runtime loads."""
        return self.folder / self.manifest.entry

    @property
    def size_bytes(self) -> int:
        """What the artifact's files weigh together."""
        return sum((self.folder / name).stat().st_size for name in self.manifest.files)

    @property
    def sha256(self) -> str:
        """One digest for all files: the digest of the manifest's list of digests."""
        return digest(self.manifest.files)


def open_artifact(folder: Path) -> Artifact:
    """Read an artifact's manifest and check every file against its SHA-256.

    Raises:
        InputRefused: the folder is no artifact, or a file is missing or was changed.
    """
    remedy = "Export the model again, or point to the folder that holds manifest.json."
    try:
        manifest = TypeAdapter(Manifest).validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise InputRefused(f"{folder} is not an artifact: it has no {MANIFEST}.", remedy) from None
    except ValidationError as error:
        raise InputRefused(f"{folder / MANIFEST} can't be read: {error.errors()[0]['msg']}.", remedy) from None
    if manifest.schema != SCHEMA:
        raise InputRefused(f"{folder} has the schema {manifest.schema}, not {SCHEMA}.", "Update rescompress.")
    if manifest.entry not in manifest.files:
        raise InputRefused(f"The manifest of {folder} doesn't list the file that it would load.", remedy)
    for name, expected in manifest.files.items():
        path = folder / name
        if not _lies_in(folder, name) or not path.is_file() or sha256_of(path) != expected:
            raise InputRefused(f"{path} is missing or was changed since it was exported.", remedy)
    return Artifact(folder, manifest)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        h = hashlib.sha256()
        while block := file.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal; equal values have equal digests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def to_json(value: Any) -> bytes:
    """A frozen value as readable, strict JSON, the same bytes for the same value."""
    whole = asdict(value) if hasattr(value, "__dataclass_fields__") else value
    return (json.dumps(_portable(whole), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is synced and renamed to ``path``, else removed.

    Raises:
        ResourceExhausted: the disk is full.
        InputRefused: the place can't be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically."""
    with writing(path) as temporary:
        temporary.write_bytes(content)


def write_artifact(
    folder: Path, fill: Callable[[Path], str], describe: Callable[[str, dict[str, str]], Manifest]
) -> Artifact:
    """Make an artifact's folder atomically: it appears complete, manifest included, or not at all.

    Args:
        folder: where the artifact goes; what stood there is replaced.
        fill: writes the files into the folder that it is given and returns the entry file's name.
        describe: makes the manifest from the entry's name and the files' digests.
    """
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            entry = fill(temporary)
            files = {
                path.relative_to(temporary).as_posix(): sha256_of(path)
                for path in sorted(temporary.rglob("*"))
                if not path.is_dir()
            }
            manifest = describe(entry, files)
            (temporary / MANIFEST).write_bytes(to_json(manifest))
            for path in temporary.rglob("*"):
                _sync(path)
            temporary.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.replace(folder)
            _sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Artifact(folder, manifest)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into our own errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceExhausted(
                f"The disk is full: {path} can't be written.", "Free some space and run again."
            ) from None
        if error.errno in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.EISDIR,
            errno.ENOENT,
            errno.ENAMETOOLONG,
        ):
            raise InputRefused(
                f"{path} can't be written: {(error.strerror or 'refused').lower()}.", "Choose another folder with -o."
            ) from None
        raise


def _lies_in(folder: Path, name: str) -> bool:
    """Whether a name is that of a file in the folder or below it, and no link leads there."""
    parts = PurePosixPath(name).parts
    places = [folder.joinpath(*parts[: count + 1]) for count in range(len(parts))]
    plain = "/".join(parts) == name and ".." not in parts and not {"\\", ":"} & set(name)
    return plain and bool(parts) and not any(place.is_symlink() for place in places)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _portable(value: Any) -> Any:
    """Infinities as strings, which pydantic reads back: JSON has no word for them, and other readers refuse ours."""
    if isinstance(value, dict):
        return {name: _portable(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_portable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
