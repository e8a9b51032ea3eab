"""LiteRT (TensorFlow Lite) on CPUs: a flatbuffer that we write ourselves, with our scales, run by XNNPACK.

The vendor's converter calibrates anew or leaves islands of float, and pins an old pydantic; the file format is public
and its schema comes with the runtime.
"""

from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rescompress.artifact import Artifact
from rescompress.schemes import LITERT
from rescompress.spec import ModelSpec, PrecisionReport, Rung

if TYPE_CHECKING:
    from torch import nn

    from rescompress.backends._litert_run import LitertSession

SCHEME = LITERT
ENTRY = "model.tflite"
REQUIREMENT = "rescompress[litert]"
PACKAGES = ("ai_edge_litert", "flatbuffers")


def missing() -> str | None:
    """The pip requirement that is not installed here, or None."""
    absent = [package for package in PACKAGES if util.find_spec(package) is None]
    return REQUIREMENT if absent else None


def rung() -> tuple[Rung, str]:
    """The highest rung that an artifact can climb on this machine, and what hinders more."""
    return "L3", ""


def versions() -> dict[str, str]:
    """Releases of the packages that make and run the artifact."""
    return {package: metadata.version(package) for package in ("ai-edge-litert", "flatbuffers")}


def export(
    model: "nn.Module",
    spec: ModelSpec,
    folder: Path,
    *,
    floats: Literal["fp32", "fp16"] = "fp32",
    preprocess: bool = False,
    softmax: bool = False,
    batch: Annotated[int, Field(ge=1)] | None = None,
    integer_io: bool = False,
    labels: tuple[str, ...] = (),
) -> str:
    """Write ``model.tflite``: channels last, INT8 weights stored as INT8, tensors named after the modules.

    Args:
        model: float or quantized.
        spec: the model's.
        folder: an empty folder.
        floats: what float weights are stored in; LiteRT's CPU kernels compute in FP32 either way.
        preprocess: scaling and normalization are in the graph, which takes uint8 pixels ``[n, h, w, 3]``, RGB.
        softmax: give probabilities instead of logits.
        batch: images in one run; None leaves it to the one who runs.
        integer_io: what goes in and what comes out are INT8, on the grids that the file tells.
        labels: names of the classes, packed into the file as ``labels.txt``.

    Raises:
        InputRefused: the network has an op that isn't written for LiteRT, or no integers at its ends; or it was
            quantized for another runtime.
    """
    from rescompress import fakequant
    from rescompress.backends._litert_write import Face, content_of

    fakequant.check_scheme(model, SCHEME)
    face = Face(floats == "fp16", preprocess, softmax, batch, integer_io, labels)
    (folder / ENTRY).write_bytes(content_of(model, spec, face))
    return ENTRY


def load(artifact: Artifact, *, threads: int) -> "LitertSession":
    """Load an artifact on so many threads, with the XNNPACK delegate."""
    from rescompress.backends._litert_run import LitertSession

    return LitertSession(artifact.entry, threads, pixels=artifact.manifest.takes_pixels)


def audit(artifact: Artifact) -> PrecisionReport:
    """Precision of each layer, add and pool by the tensors that its operator reads; what XNNPACK took, as a note."""
    from rescompress.backends._litert_audit import report

    return report(artifact.entry)
