"""Where a model runs: one file per runtime, each satisfying the same Protocol."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rescompress import catalog
from rescompress.artifact import Artifact
from rescompress.errors import BackendMissing
from rescompress.schemes import QuantScheme
from rescompress.spec import ModelSpec, PrecisionReport, Rung
from rescompress.timing import ProfileRow

if TYPE_CHECKING:
    from torch import nn

PACKAGE = "rescompress.backends"
FORMATS = {"onnx": "onnxruntime"}
"""File formats by which people call a backend."""


Images = NDArray[np.float32] | NDArray[np.uint8]
ROUNDED = ".rounded"
"""Behind a value's name: as what reads it sees it, where the artifact rounds it to integers."""
OUTPUT = "output"
"""What comes out at the end of a network, one row an image, as ``Session.run`` gives it."""


class Session(Protocol):
    """A loaded artifact that runs."""

    def __enter__(self) -> "Session": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, images: Images) -> NDArray[np.float32]:
        """Images to logits ``[n, classes]``, to probabilities, or to all maps, one row an image.

        Args:
            images: preprocessed, ``[n, 3, h, w]`` in float32; or pixels, ``[n, h, w, 3]`` in uint8, RGB, where the
                manifest says so.
        """
        ...


@runtime_checkable
class Clocked(Protocol):
    """What a session offers too if its device has a clock of its own."""

    @property
    def compute_ns(self) -> int | None:
        """Nanoseconds that the last ``run`` computed on the device, copies excluded; None where only the host clocks.

        Nothing is read from the device before somebody asks, so that asking costs no query its time.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """What each file of this folder offers."""

    SCHEME: QuantScheme | None

    def missing(self) -> str | None:
        """The pip requirement that is not installed here, or None."""
        ...

    def rung(self) -> tuple[Rung, str]:
        """The highest rung that an artifact can climb on this machine, and a sentence that says what hinders more.

        Below L2, ``load`` may still run something that stands in for the runtime; that climbs no rung.
        """
        ...

    def versions(self) -> dict[str, str]:
        """Releases of the packages that make and run the artifact."""
        ...

    def export(self, model: "nn.Module", spec: ModelSpec, folder: Path, **knobs: Any) -> str:
        """Write the artifact's files into an empty folder and return the entry file's name."""
        ...

    def load(self, artifact: Artifact, *, threads: int) -> Session:
        """Load an artifact; a provider other than the one asked for is an error."""
        ...

    def audit(self, artifact: Artifact) -> PrecisionReport:
        """The precision that each layer really has, read off what the runtime built."""
        ...


@runtime_checkable
class Watched(Protocol):
    """What a backend offers too if it can show what its runtime computes inside a network.

    A backend that can compute the file op by op, nothing fused, may offer that as ``written_layers``, which has the
    same arguments and says which of the two is at fault, the file or the runtime.
    """

    def layers(self, artifact: Artifact, images: Images) -> dict[str, NDArray[np.float32]]:
        """Values by the stable name that they have in the captured graph (``layer1.0.conv1``, ``layer1.0.relu``).

        Values that the runtime fuses away are left out: the values that both sides have are compared. Where a value is
        rounded to integers, ``NAME.rounded`` is its rounded self in float, and ``NAME``, if it is there at all, the
        value before. Shapes are those of PyTorch, channels first. ``output`` is what this run gives at the end.
        """
        ...


@runtime_checkable
class Profiled(Protocol):
    """What a backend offers too if its runtime tells how long each layer takes.

    ONNX Runtime, OpenVINO and TensorRT have profilers of their own, and eager PyTorch is timed op by op. LiteRT has a
    profiler in C, but no release's Python API reaches it; what Inductor compiles and Core ML runs has no names of ours.
    """

    def profile(self, artifact: Artifact, images: Images, *, threads: int) -> ProfileRow:
        """Where the time of a query of these images goes, over at least 20 queries after a warm-up.

        A fused kernel is booked under its convolution or linear layer, by the names of the audit; the runtime's own
        conversions are entries of their own.
        """
        ...


def in_batches(run: Callable[[Images], NDArray[np.float32]], images: Images, batch: int | None) -> NDArray[np.float32]:
    """Any number of images through what takes a fixed number of them; the last batch is filled with zeros."""
    if batch is None:
        return run(images)
    parts = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        filled = np.zeros((batch, *images.shape[1:]), images.dtype)
        filled[: len(part)] = part
        parts.append(run(filled)[: len(part)])
    return np.concatenate(parts)


def names() -> Sequence[str]:
    """Names of all backends."""
    return catalog.names(PACKAGE)


def get(name: str) -> Backend:
    """A backend by its own name or by its file format's.

    Raises:
        RecipeError: there is no such backend.
    """
    return cast(Backend, catalog.load(PACKAGE, FORMATS.get(name, name)))


def require(name: str) -> Backend:
    """A backend that is installed here.

    Raises:
        BackendMissing: its packages are not installed.
    """
    backend = get(name)
    missing = backend.missing()
    if missing:
        raise BackendMissing(f"{name} needs {missing}, which is not installed.", f"Run: pip install '{missing}'")
    return backend
