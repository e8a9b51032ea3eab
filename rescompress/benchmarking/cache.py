"""Measured latencies on disk: one JSON file for each machine, runtime and way of running it."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter, ValidationError

from rescompress import artifact, backends, progress
from rescompress.artifact import digest
from rescompress.benchmarking import machine
from rescompress.benchmarking.layers import Target

Schema = Literal["rescompress.latency/1"]
SCHEMA: Schema = "rescompress.latency/1"
VARIABLE = "RESCOMPRESS_CACHE"
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class _File:
    """What is in the file; the target stands there for people who look at it."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    schema: Schema
    target: Target
    seconds: dict[str, Seconds]


class Cache:
    """Seconds by the name of what was timed.

    Args:
        target: how it was run.

    Attributes:
        path: the file. Other releases, processors or threads mean another file.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        here = machine.fingerprint(machine.environment())
        key = digest([here, backends.get(target.backend).versions(), asdict(target)])[:16]
        self.path = folder() / f"{target.backend}-{target.precision}-{key}.json"

    def read(self) -> dict[str, float]:
        """What was measured before; nothing where the file is missing or broken."""
        try:
            return dict(TypeAdapter(_File).validate_json(self.path.read_bytes()).seconds)
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError, UnicodeDecodeError):
            progress.note(f"{self.path} can't be read; its latencies are measured again.")
            return {}

    def add(self, seconds: dict[str, float]) -> None:
        """Write more entries beside those that are there, atomically."""
        content = _File(SCHEMA, self._target, dict(sorted({**self.read(), **seconds}.items())))
        artifact.write_bytes(self.path, artifact.to_json(content))


def folder() -> Path:
    """Where latencies are kept: ``RESCOMPRESS_CACHE``, or the user's cache folder."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]) / "latency"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rescompress" / "latency"
