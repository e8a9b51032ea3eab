"""A seal on artifacts that hold executable code: this user built them on this machine, and nobody changed them since.

A manifest can be written by anybody. The seal is an HMAC-SHA256 (RFC 2104) over the files' digests, the machine and the
releases, with a key that never leaves the user's cache folder.
"""

import contextlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rescompress import cpu
from rescompress.artifact import MANIFEST, VERIFIED, digest, sha256_of, to_json
from rescompress.errors import InputRefused

SEAL = "seal.json"
REMEDY = "Export the model again."
_KEY_BYTES = 32


def seal(folder: Path, made_with: Mapping[str, str]) -> None:
    """Write ``seal.json`` beside the files of an artifact that was just built; call it last in ``export``.

    Args:
        folder: holds the artifact's files, all of them.
        made_with: what else the code depends on: releases, the GPU and its driver.
    """
    built = _built(made_with)
    (folder / SEAL).write_bytes(to_json({"built": built, "hmac": _hmac(folder, built)}))


def check(folder: Path, made_with: Mapping[str, str]) -> None:
    """Refuse a folder that wasn't sealed here; call it before a file of the folder is loaded.

    Args:
        folder: of the artifact.
        made_with: what ``seal`` was told, as it is now.

    Raises:
        InputRefused: no seal, another user's, a file that was changed, added or taken away, another processor, or
            another release.
    """
    fact = f"rescompress can't load {folder}, which holds executable code: "
    try:
        written = json.loads((folder / SEAL).read_bytes())
        built, signature = dict(written["built"]), str(written["hmac"])
    except (OSError, ValueError, LookupError, TypeError):
        raise InputRefused(f"{fact}it bears no seal.", REMEDY) from None
    if not hmac.compare_digest(_hmac(folder, built).encode(), signature.encode()):
        raise InputRefused(f"{fact}this user didn't build it here, or it was changed since.", REMEDY)
    for name, now in _built(made_with).items():
        if built.get(name) != now:
            raise InputRefused(f"{fact}it was built for {name} {built.get(name)}, and here is {now}.", REMEDY)


def _built(made_with: Mapping[str, str]) -> dict[str, str]:
    """The processor, and what the caller names beside it."""
    told = cpu.told()
    return {"cpu": cpu.cpu_model(told), "isa": " ".join(cpu.instruction_sets(told)), **made_with}


def _hmac(folder: Path, built: Mapping[str, str]) -> str:
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    files = {name: sha256_of(path) for name, path in paths.items() if name not in (SEAL, MANIFEST, VERIFIED)}
    return hmac.digest(_key(), digest({"built": dict(built), "files": files}).encode(), "sha256").hex()


def _key() -> bytes:
    """The user's key, made on first use; nobody else may read it.

    Raises:
        InputRefused: it belongs to somebody else, or others may read or change it.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(os.environ.get("RESCOMPRESS_CACHE") or Path(base) / "rescompress") / "key"
    if not path.exists():
        _make_key(path)
    with path.open("rb") as file:
        about, key = os.fstat(file.fileno()), file.read()
    strange = hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o077)
    if strange or len(key) != _KEY_BYTES:
        raise InputRefused(
            f"The key {path} is damaged, or others may read it, so no seal made with it can be trusted.",
            "Delete it, and export again what was sealed with it.",
        )
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):  # of two processes that come at once, one wins and both read it
            os.link(name, path)
    finally:
        os.unlink(name)
