"""Every expected failure: one sentence of fact, one of remedy, one exit code.

RescompressError
├── RecipeError          2  the recipe or the command line is wrong
├── TargetsFailed        3  some of the wanted artifacts could not be made
├── InputRefused         4  a file that came in is corrupt, unsafe or unsupported
├── GateFailed           5  the artifact is less accurate, or computes something else
├── BenchmarkInvalid     6  the timing can't be trusted, or regressed
├── BackendMissing       7  a runtime is not installed here
├── ResourceExhausted    8  disk, memory or time ran out
├── RunLocked            9  another process works in the same folder
└── WorkerCrashed       10  a runtime died in its own process
"""


class RescompressError(Exception):
    """An expected failure, shown without a traceback.

    Args:
        fact: what is wrong, in one sentence that names the file, knob or layer.
        remedy: what to do about it, in one sentence.
    """

    exit_code = 1

    def __init__(self, fact: str, remedy: str) -> None:
        super().__init__(f"{fact} {remedy}")
        self.fact = fact
        self.remedy = remedy


class RecipeError(RescompressError):
    """The recipe or the command line is wrong."""

    exit_code = 2


class TargetsFailed(RescompressError):
    """Some of the wanted artifacts could not be made; the others stand."""

    exit_code = 3


class InputRefused(RescompressError):
    """A file that came in is missing, corrupt, unsafe or unsupported, or a place can't be written."""

    exit_code = 4


class GateFailed(RescompressError):
    """The artifact is less accurate than allowed, or computes something else than the model."""

    exit_code = 5


class BenchmarkInvalid(RescompressError):
    """The timing can't be trusted, or regressed."""

    exit_code = 6


class BackendMissing(RescompressError):
    """A runtime is not installed here."""

    exit_code = 7


class ResourceExhausted(RescompressError):
    """Disk, memory or time ran out."""

    exit_code = 8


class RunLocked(RescompressError):
    """Another process works in the same folder."""

    exit_code = 9


class WorkerCrashed(RescompressError):
    """A runtime died in its own process."""

    exit_code = 10
