"""ONNX Runtime on CPUs: u8 activations, s8 weights per channel, every op between the convolutions in INT8 too."""

import tempfile
from importlib import metadata, util
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rescompress.artifact import Artifact
from rescompress.backends import Images, _onnxruntime_audit, _onnxruntime_layers, _onnxruntime_profile, in_batches
from rescompress.backends._layer_times import repeated
from rescompress.errors import BackendMissing, InputRefused
from rescompress.schemes import ONNXRUNTIME
from rescompress.spec import ModelSpec, PrecisionReport, Rung
from rescompress.timing import ProfileRow

if TYPE_CHECKING:
    from torch import nn

SCHEME = ONNXRUNTIME
PROVIDER = "CPUExecutionProvider"
ENTRY = "model.onnx"
REQUIREMENT = "rescompress[onnx]"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def missing() -> str | None:
    """The pip requirement that is not installed here, or None."""
    absent = [package for package in PACKAGES if util.find_spec(package) is None]
    return REQUIREMENT if absent else None


def rung() -> tuple[Rung, str]:
    """The highest rung that an artifact can climb on this machine, and what hinders more."""
    return "L3", ""


def versions() -> dict[str, str]:
    """Releases of the packages that make and run the artifact."""
    return {package: metadata.version(package) for package in PACKAGES}


def export(
    model: "nn.Module",
    spec: ModelSpec,
    folder: Path,
    *,
    opset: Annotated[int, Field(ge=18, le=23)] = 21,
    floats: Literal["fp32", "fp16"] = "fp32",
    preprocess: bool = False,
    softmax: bool = False,
    batch: Annotated[int | None, Field(ge=1)] = None,
    labels: tuple[str, ...] = (),
    metadata: dict[str, str] | None = None,
) -> str:
    """Write ``model.onnx``: one file, INT8 weights stored as INT8, nodes named after the modules.

    Args:
        model: float or quantized.
        spec: the model's.
        folder: an empty folder.
        opset: version of the ONNX operator set; 19 or later for FP16 between integers, 21 or later for INT4.
        floats: what is computed in where integers aren't, and stored; what goes in and comes out stays FP32. Most CPUs
            compute FP16 in FP32.
        preprocess: scale and normalize in the graph: it takes uint8 pixels [n, h, w, 3], RGB.
        softmax: give probabilities instead of logits.
        batch: images in each batch; left out, any number.
        labels: names of the classes, one for each, for the file's metadata.
        metadata: further entries; a run adds digests of the recipe up to here and of the checkpoint.

    Raises:
        InputRefused: the exporter can't express the model, or a weight is larger than FP16 can hold.
        RecipeError: the operator set lacks what the model needs, or softmax or labels don't fit it.
    """
    from rescompress import onnx_writing

    proto = onnx_writing.proto_of(
        model,
        spec,
        opset,
        floats=floats,
        fp32_scales=True,  # only they are fused into integer kernels
        preprocess=preprocess,
        softmax=softmax,
        batch=batch,
        labels=labels,
        metadata=metadata,
    )
    (folder / ENTRY).write_bytes(proto.SerializeToString(deterministic=True))
    return ENTRY


class OrtSession:
    """An ONNX Runtime session on the CPU provider, which is asserted.

    Args:
        path: the file.
        threads: of each operator.
        optimized: where to write the graph that ONNX Runtime made of the file.
        profiled: where its profiler writes; the name goes on with a date.
    """

    def __init__(self, path: Path, threads: int, optimized: Path | None = None, profiled: Path | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        if profiled is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profiled)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=[PROVIDER], enable_fallback=0
            )
        except Exception as error:  # the C++ layer raises its own unrelated classes
            raise InputRefused(f"ONNX Runtime can't load {path}: {error}.", "Export the model again.") from None
        if self._session.get_providers()[0] != PROVIDER:
            raise BackendMissing(f"ONNX Runtime fell back to {self._session.get_providers()[0]}.", "Reinstall it.")
        (taken,) = self._session.get_inputs()
        self._input: str = taken.name
        self._batch: int | None = taken.shape[0] if isinstance(taken.shape[0], int) else None

    def __enter__(self) -> "OrtSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._session

    def run(self, images: Images) -> NDArray[np.float32]:
        """Images as the model takes them to logits ``[n, classes]``, or to what else it gives, one row an image.

        Where the batch is fixed, the last one is filled up with zeros.
        """
        return in_batches(self._once, images, self._batch)

    def profile(self) -> str:
        """What the profiler has written, as JSON; it ends with this call."""
        return Path(self._session.end_profiling()).read_text("utf-8")

    def _once(self, images: Images) -> NDArray[np.float32]:
        outputs: list[NDArray[np.float32]] = self._session.run(None, {self._input: images})
        return np.concatenate([output.reshape(len(output), -1) for output in outputs], 1)


def load(artifact: Artifact, *, threads: int) -> OrtSession:
    """Load an artifact with all graph optimizations on so many threads."""
    return OrtSession(artifact.entry, threads)


def audit(artifact: Artifact) -> PrecisionReport:
    """Precision of each convolution, linear layer, add and pool, read off the graph that ONNX Runtime optimized."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / ENTRY
        with OrtSession(artifact.entry, 1, optimized):
            built = onnx.load(str(optimized)).graph
    exported = onnx.load(str(artifact.entry)).graph
    return _onnxruntime_audit.report(exported, built, artifact.manifest.floats)


def profile(artifact: Artifact, images: Images, *, threads: int) -> ProfileRow:
    """Time of each kernel by ONNX Runtime's own profiler, the median of many queries of these images."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / ENTRY
        with OrtSession(artifact.entry, threads, optimized, Path(folder) / "profile") as session:
            runs = repeated(lambda: session.run(images))
            text = session.profile()
        built = onnx.load(str(optimized)).graph
    layers, total_ms = _onnxruntime_profile.read(text, onnx.load(str(artifact.entry)).graph, built, runs)
    source = "ONNX Runtime's profiler, medians"
    return ProfileRow(artifact.manifest.label, artifact.manifest.backend, source, layers, total_ms)


def layers(artifact: Artifact, images: Images) -> dict[str, NDArray[np.float32]]:
    """What ONNX Runtime computes inside, as it fuses the graph."""
    return _onnxruntime_layers.built(artifact.entry, images)


def written_layers(artifact: Artifact, images: Images) -> dict[str, NDArray[np.float32]]:
    """What the file says, computed op by op."""
    return _onnxruntime_layers.written(artifact.entry, images)
