"""A machine in a folder: the files of ``/proc`` and ``/sys`` that a test wants to be there."""

from pathlib import Path

from rescompress.benchmarking.conditions.files import Files

CPU = "sys/devices/system/cpu"


def lay(root: Path, told: dict[str, object]) -> Files:
    """Write each file, its folders too."""
    for path, content in told.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{content}\n", "utf-8")
    return Files(root)
