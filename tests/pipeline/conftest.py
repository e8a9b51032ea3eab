"""A run that was killed again and again, always at another point, and started again until it was through."""

import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rescompress import pipeline, recipe
from rescompress.errors import RunLocked
from tests.jobs import TINY, command, litter, stamps, start, write

HOOKS = Path(__file__).parent / "hooks"
SEEN, BEFORE = "killed once it is there", "killed before it is put into place"
KILLS = (
    (SEEN, "stages/00-baseline.json"),
    (BEFORE, "stages/02-prune.safetensors"),
    (BEFORE, "artifacts/onnxruntime/05-quantize"),
)


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
    return survive(tmp_path_factory.mktemp("killed"), KILLS)


def survive(root: Path, kills: Sequence[tuple[str, str]]) -> Survivor:
    """Run the tiny job, be killed at each of these places in turn, and go on to the end."""
    job = write(root / "tiny.yaml", TINY)
    seen = Survivor(root / "out", root / "log")
    for how, place in kills:
        dies = {"DIE_BEFORE": f"out/{place}"} if how is BEFORE else {}
        with start("run", job, "-o", seen.folder, path=HOOKS, PICKLE_LOG=str(seen.log), **dies) as process:
            if how is SEEN:
                _wait(seen.folder / place, process)
                if seen.refused is None:
                    seen.owner, seen.refused = process.pid, _second(seen.folder)
                process.send_signal(signal.SIGKILL)
            process.communicate()
        seen.codes.append(process.returncode)
        seen.litter.append(litter(seen.folder))
        seen.stamps.append(stamps(seen.folder))
    ended = command("run", job, "-o", seen.folder, path=HOOKS, PICKLE_LOG=str(seen.log))
    assert ended.returncode == 0, ended.stderr
    return seen


def _wait(file: Path, process: subprocess.Popen) -> None:
    while not file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def _second(folder: Path) -> RunLocked:
    """Another run in the same folder, while the first one works."""
    with pytest.raises(RunLocked) as caught:
        pipeline.run(recipe.parse(TINY), folder)
    return caught.value
