"""A run that was killed again and again, always at another point, and started again until it was through."""

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rescompress import pipeline, recipe
from rescompress.errors import RunLocked
from tests.jobs import TINY, litter, stamps, start, write

HOOKS = Path(__file__).parent / "hooks"
SOON = ("stages/00-baseline.json", "stages/02-prune.json")
"""Killed as soon as this file is seen."""
BEFORE = (
    "stages/01-fit.safetensors",  # written, but not yet in place
    "stages/03-distill.json",  # the checkpoint is in place, its row is not
    "artifacts/onnxruntime/05-quantize",
    "report.md",
)
"""Killed before this file is put into place."""


@dataclass
class Survivor:
    """What was seen on the way, one entry per kill; ``log`` is what the hooks of all its processes wrote."""

    folder: Path
    log: Path
    owner: int = 0
    refused: RunLocked | None = None
    codes: list[int] = field(default_factory=list)
    litter: list[list[str]] = field(default_factory=list)
    stamps: list[dict[str, int]] = field(default_factory=list)


@pytest.fixture(scope="session")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Survivor:
    """The tiny job on the command line, in as many processes as it was killed, and one more."""
    root = tmp_path_factory.mktemp("killed")
    job = write(root / "tiny.yaml", TINY)
    seen = Survivor(root / "out", root / "log")
    for place in sorted((*SOON, *BEFORE), key=lambda name: (not name.startswith("stages"), name)):
        dies = {} if place in SOON else {"DIE_BEFORE": str(Path("out", place))}
        with start("run", job, "-o", seen.folder, path=HOOKS, PICKLE_LOG=str(seen.log), **dies) as process:
            if place in SOON:
                _wait(seen.folder / place, process)
                if seen.refused is None:
                    seen.owner, seen.refused = process.pid, _second(seen.folder)
                process.send_signal(signal.SIGKILL)
            process.communicate()
        seen.codes.append(process.returncode)
        seen.litter.append(litter(seen.folder))
        seen.stamps.append(stamps(seen.folder))
    with start("run", job, "-o", seen.folder, path=HOOKS, PICKLE_LOG=str(seen.log)) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    return seen


def _wait(file: Path, process) -> None:
    while not file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def _second(folder: Path) -> RunLocked:
    """Another run in the same folder, while the first one works."""
    with pytest.raises(RunLocked) as caught:
        pipeline.run(recipe.parse(TINY), folder)
    return caught.value
