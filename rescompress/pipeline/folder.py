"""A run's folder: one process at a time, rows that say what they depend on, and work taken over from sister runs."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from rescompress import artifact
from rescompress.errors import RunLocked
from rescompress.spec import StageRow

T = TypeVar("T")


class RunFolder:
    """Where one run keeps its stages, artifacts and rows.

    A row is stored with a key, the digest of all that it depends on. A row with another key is as good as none.

    Args:
        path: the folder; made if need be.
        name: the recipe's name, by which sister runs are found.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self._name = path, name
        self.stages, self.artifacts, self.rows = path / "stages", path / "artifacts", path / "rows"
        self.training = path / "training"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out, and clear away what a killed one left half-written.

        Raises:
            RunLocked: another process works here.
        """
        with artifact.explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                owner = (self.path / ".owner").read_text("utf-8") if (self.path / ".owner").exists() else "unknown"
                raise RunLocked(
                    f"{self.path} is in use by process {owner}.", "Wait for it, or choose another folder with -o."
                ) from None
        try:
            (self.path / ".owner").write_text(str(os.getpid()), "utf-8")
            self._clear_litter()
            yield
        finally:
            (self.path / ".owner").unlink(missing_ok=True)
            lock.release()

    def row(self, name: str, key: str, kind: type[T]) -> T | None:
        """The row of this name if it was made with this key."""
        return _read(self.rows / f"{name}.json", key, kind)

    def keep_row(self, name: str, key: str, row: Any) -> None:
        """Store a row with its key, atomically."""
        artifact.write_bytes(self.rows / f"{name}.json", artifact.to_json({"key": key, "row": asdict(row)}))

    def stage(self, label: str, key: str) -> StageRow | None:
        """The finished stage of this label and key, here or in a sister run, with its checkpoint intact."""
        sisters = sorted(self.path.parent.glob(f"{self._name}-*/stages"))
        for folder in (self.stages, *sisters):
            row = _read(folder / f"{label}.json", key, StageRow)
            if row is None or not _intact(folder / row.checkpoint, row.sha256):
                continue
            if folder != self.stages:
                with artifact.writing(self.stages / row.checkpoint) as temporary:
                    shutil.copyfile(folder / row.checkpoint, temporary)
                self.keep_stage(row)
            return row
        return None

    def keep_stage(self, row: StageRow) -> None:
        """Store a stage's row; its checkpoint must be in place, for the row makes it count."""
        artifact.write_bytes(self.stages / f"{row.label}.json", artifact.to_json({"key": row.key, "row": asdict(row)}))

    def keep_only(self, labels: Collection[str]) -> None:
        """Remove what an earlier recipe left in this folder under other labels."""
        left = (*self.stages.glob("[0-9]*"), *self.artifacts.glob("*/[0-9]*"), *self.rows.glob("*-[0-9]*.json"))
        for old in (*left, *self.training.glob("[0-9]*")):
            label = re.sub(r"\.(json|safetensors)$", "", old.name)
            if not any(label == wanted or label.endswith(f"-{wanted}") for wanted in labels):
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def scratch(self, label: str, key: str) -> Path:
        """Where the training of a stage keeps its journal and, until it ends, its state; other keys' are cleared."""
        place = self.training / label
        if _text(place / "key") != key:
            shutil.rmtree(place, ignore_errors=True)
            artifact.write_bytes(place / "key", key.encode())
        return place

    def _clear_litter(self) -> None:
        own = [f".{name}.*" for name in ("recipe.yaml", "environment.json", "report.*", "model_card.md")]
        for litter in (
            found
            for place in ("stages/.*", "rows/.*", "training/*/.*", "artifacts/*/.*", *own)
            for found in self.path.glob(place)
        ):
            shutil.rmtree(litter) if litter.is_dir() else litter.unlink()


def _read(file: Path, key: str, kind: type[T]) -> T | None:
    try:
        content = json.loads(file.read_bytes())
        return TypeAdapter(kind).validate_python(content["row"]) if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _text(file: Path) -> str | None:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _intact(file: Path, sha256: str) -> bool:
    return file.is_file() and artifact.sha256_of(file) == sha256
