"""What a seal lets pass and what it refuses."""

import hashlib
import hmac
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rescompress import cpu, provenance
from rescompress.errors import InputRefused

MADE_WITH = {"torch": "2.13.0"}


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESCOMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "key"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "model.pt2").write_bytes(b"code")
    provenance.seal(folder, MADE_WITH)
    (folder / "manifest.json").write_text("written after the seal")
    return folder


def test_what_was_sealed_here_passes(sealed: Path, tmp_path: Path) -> None:
    provenance.check(sealed, MADE_WITH)
    provenance.check(shutil.copytree(sealed, tmp_path / "elsewhere"), MADE_WITH)


def test_what_verifying_leaves_behind_breaks_no_seal(sealed: Path) -> None:
    (sealed / "verified.json").write_text("{}")
    provenance.check(sealed, MADE_WITH)


def rewrite(folder: Path, **changes: str) -> None:
    seal = json.loads((folder / "seal.json").read_bytes())
    seal["built"].update(changes)
    (folder / "seal.json").write_text(json.dumps(seal))


def forge(folder: Path) -> None:
    """A seal by somebody who knows how seals are made, but not the key."""
    seal = json.loads((folder / "seal.json").read_bytes())
    files = {"model.pt2": hashlib.sha256(b"code").hexdigest()}
    text = json.dumps({"built": seal["built"], "files": files}, sort_keys=True).encode()
    seal["hmac"] = hmac.digest(bytes(32), hashlib.sha256(text).hexdigest().encode(), "sha256").hex()
    (folder / "seal.json").write_text(json.dumps(seal))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.pt2").write_bytes(b"evil"), "changed since"),
        (lambda folder: (folder / "more.so").write_bytes(b"evil"), "changed since"),
        (lambda folder: (folder / "model.pt2").rename(folder / "other.pt2"), "changed since"),
        (lambda folder: rewrite(folder, torch="2.14.0"), "changed since"),
        (forge, "this user didn't build it"),
        (lambda folder: (folder / "seal.json").unlink(), "no seal"),
        (lambda folder: (folder / "seal.json").write_text("[]"), "no seal"),
        (lambda folder: (folder / "seal.json").write_text('{"built": 3, "hmac": ""}'), "no seal"),
        (lambda folder: (folder / "seal.json").write_text('{"built": {}, "hmac": "\\u00e9"}'), "didn't build it"),
    ],
)
def test_anything_else_is_refused(sealed: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(sealed)
    with pytest.raises(InputRefused, match=rf"can't load .*{said}"):
        provenance.check(sealed, MADE_WITH)


def test_another_users_key_opens_nothing(sealed: Path, key: Path) -> None:
    key.unlink()
    with pytest.raises(InputRefused, match="didn't build it here"):
        provenance.check(sealed, MADE_WITH)


def test_another_machine_or_release_is_named(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputRefused, match=r"for torch 2\.13\.0, and here is 2\.14\.0"):
        provenance.check(sealed, {"torch": "2.14.0"})
    monkeypatch.setattr(cpu, "cpu_model", lambda told: "another processor")
    with pytest.raises(InputRefused, match=r"for cpu .*, and here is another processor"):
        provenance.check(sealed, MADE_WITH)


def test_the_key_is_random_private_and_made_once(sealed: Path, key: Path) -> None:
    made = key.read_bytes()
    assert len(made) == 32
    assert key.stat().st_mode & 0o777 == 0o600
    provenance.check(sealed, MADE_WITH)
    assert [path.name for path in key.parent.iterdir()] == ["key"]
    assert key.read_bytes() == made
    key.unlink()
    provenance.seal(sealed, MADE_WITH)
    assert key.read_bytes() != made
    assert made.hex() not in (sealed / "seal.json").read_text()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no such modes.")
def test_a_key_that_others_may_read_is_refused(sealed: Path, key: Path) -> None:
    key.chmod(0o644)
    with pytest.raises(InputRefused, match="others may read it"):
        provenance.check(sealed, MADE_WITH)
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(InputRefused, match="damaged"):
        provenance.seal(sealed, MADE_WITH)
