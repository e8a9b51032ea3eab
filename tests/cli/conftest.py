"""The command line in this process, with everything that it and its runtimes print."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from rescompress import progress
from rescompress.cli import cli, guarded, show


@dataclass(frozen=True)
class Said:
    """Exit code, standard output and standard error of one command."""

    code: int
    out: str
    err: str


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    monkeypatch.setattr(progress, "quiet", False)
    monkeypatch.setattr(show, "form", "human")

    def call(*arguments: Any) -> Said:
        words = [str(argument) for argument in arguments]
        capfd.readouterr()
        code = guarded(lambda: cli(words, prog_name="rescompress", standalone_mode=False), words)
        return Said(code, *capfd.readouterr())

    return call
