"""The tiny job that end-to-end tests share, and the command line in a process of its own."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

BRIEF = {"epochs": 1, "batch": 16, "augment": "none"}
TINY: dict[str, Any] = {
    "name": "tiny",
    "model": {"family": "cifar", "architecture": "resnet8", "classes": 10},
    "data": "digits",
    "stages": [
        {"fit": {"schedule": BRIEF}},
        {"prune": {"ratio": 0.25, "round_to": 8}},
        {"distill": {"schedule": BRIEF, "loss": {"logits": {"alpha": 0.1}}}},
        "fuse",
        {"quantize": {"observer": "minmax", "calibration_images": 64}},
    ],
    "export": "onnx",
    "prove": "ends",
    "max_accuracy_drop": 5.0,
    "verify": {"batch": 128},
    "benchmark": {"launches": 2, "blocks": 2, "block_seconds": 0.01, "profile": False},
}
LABELS = ("00-baseline", "01-fit", "02-prune", "03-distill", "04-fuse", "05-quantize")


def tiny(**changes: Any) -> dict[str, Any]:
    """The tiny job with some of its entries replaced; None takes an entry out."""
    whole = {**copy.deepcopy(TINY), **changes}
    return {name: value for name, value in whole.items() if value is not None}


def write(file: Path, content: Any) -> Path:
    """A recipe as a YAML file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return file


def start(*arguments: Any, folder: Path | None = None, path: Path | None = None, **variables: str) -> subprocess.Popen:
    """``python -m rescompress`` in a process of its own.

    Args:
        arguments: its command line.
        folder: where it works.
        path: a folder whose ``sitecustomize`` it imports first.
        variables: more of its environment.
    """
    environment = {**os.environ, **variables}
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), environment.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "rescompress", *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(*arguments: Any, **where: Any) -> subprocess.CompletedProcess:
    """``start``, and wait for its end."""
    with start(*arguments, **where) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def stamps(folder: Path) -> dict[str, int]:
    """When each file below a folder was last written, in nanoseconds."""
    return {
        str(file.relative_to(folder)): file.stat().st_mtime_ns for file in sorted(folder.rglob("*")) if file.is_file()
    }


def litter(folder: Path) -> list[str]:
    """Hidden files and folders that a run has no business to leave; its lock may stay."""
    return [str(file.relative_to(folder)) for file in folder.rglob(".*") if file.name != ".lock"]
