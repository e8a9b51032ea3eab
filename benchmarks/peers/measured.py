"""What a tool costs: wall seconds and the largest resident memory of its process. Standard library only.

Every script beside this one runs in a Python of its own, which has that tool installed:
``python SCRIPT.py MODEL IMAGES OUT VARIANT`` writes an INT8 artifact into OUT, and one line of JSON ends its output.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

Tool = Callable[[Path, Path, Path, str], str]
"""Model, images, folder and variant to the name of the file that was written into the folder."""


def main(tool: Tool, packages: Sequence[str]) -> None:
    """Run a tool on the command line's arguments and say what it cost.

    Args:
        tool: does the work; its imports count.
        packages: whose releases are told.
    """
    model, images, out, variant = sys.argv[1:]
    begin = time.perf_counter()
    entry = tool(Path(model), Path(images), Path(out), variant)
    found = {
        "entry": entry,
        "seconds": round(time.perf_counter() - begin, 2),
        "cpu_s": round(time.process_time(), 2),
        "peak_mb": round(peak_mb()),
        "versions": {package: metadata.version(package) for package in packages},
    }
    print(json.dumps(found), flush=True)


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB.

    Linux counts what the parent held before it started this program into ``ru_maxrss``, so its own figure is preferred.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
