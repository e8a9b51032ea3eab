"""TensorRT 10.12+ and 11 on NVIDIA GPUs: a strongly typed ONNX file anywhere, an engine where libraries and a GPU are.

TensorRT 11 takes every precision from the graph, and 10 does where it is told to; so one file serves both.
"""

from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field

from rescompress import progress, provenance
from rescompress.artifact import Artifact
from rescompress.backends import Images
from rescompress.backends import _tensorrt_build as building
from rescompress.backends import _tensorrt_inspect as inspecting
from rescompress.backends import _tensorrt_profile as profiling
from rescompress.backends import _tensorrt_run as running
from rescompress.backends import _tensorrt_standin as standing
from rescompress.backends import _tensorrt_trtexec as trtexec
from rescompress.errors import BackendMissing, InputRefused, RecipeError
from rescompress.schemes import TENSORRT
from rescompress.spec import ModelSpec, PrecisionReport, Rung
from rescompress.timing import ProfileRow

if TYPE_CHECKING:
    from torch import nn

SCHEME = TENSORRT
ENTRY, ENGINE, CACHE = "model.onnx", "model.engine", "timing.cache"
REQUIREMENT = "rescompress[onnx]"
PACKAGES = ("onnx", "onnxscript")
"""What writing the file takes; everything else is for a machine with a GPU."""
RELEASES = (
    *PACKAGES,
    *("tensorrt", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "pycuda", "cuda-bindings", "onnxruntime"),
)


def missing() -> str | None:
    """The pip requirement that is not installed here, or None; the file can be written without TensorRT."""
    absent = [package for package in PACKAGES if util.find_spec(package) is None]
    return REQUIREMENT if absent else None


def rung() -> tuple[Rung, str]:
    """The highest rung that an artifact can climb on this machine, and what hinders more."""
    hindrance = running.hindrance()
    return ("L1", hindrance) if hindrance else ("L3", "")


def versions() -> dict[str, str]:
    """Releases of the packages that make and run the artifact."""
    found = {}
    for package in RELEASES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def export(
    model: "nn.Module",
    spec: ModelSpec,
    folder: Path,
    *,
    floats: Literal["fp32", "fp16"] = "fp16",
    batch: Annotated[int | None, Field(ge=1)] = None,
    min_batch: Annotated[int, Field(ge=1)] = 1,
    opt_batch: Annotated[int, Field(ge=1)] = 1,
    max_batch: Annotated[int, Field(ge=1)] = 32,
    workspace_mb: Annotated[int, Field(ge=1)] = 1024,
    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3,
    tf32: bool = False,
    hardware_compatible: bool = False,
    version_compatible: bool = False,
    refit: bool = False,
    dla: bool = False,
    preprocess: bool = False,
    softmax: bool = False,
    labels: tuple[str, ...] = (),
    metadata: dict[str, str] | None = None,
    opset: Annotated[int, Field(ge=19, le=23)] = 21,
) -> str:
    """Write ``model.onnx``, whose types say the precision of everything; and ``model.engine`` where one can be built.

    Q/DQ have zero-point 0 and, in FP16, FP16 scales: an FP32 scale leaves every layer around it in FP32. Biases are
    floats, because TensorRT dequantizes no INT32. Inputs and outputs stay FP32, by casts.

    Args:
        model: float or quantized.
        spec: the model's.
        folder: an empty folder.
        floats: what is computed in where integers aren't.
        batch: images in each batch; left out, any number from ``min_batch`` to ``max_batch``.
        min_batch: fewest images in a batch.
        opt_batch: batch size that the kernels are chosen for.
        max_batch: most images in a batch; sessions split what is more.
        workspace_mb: memory that one kernel may take for scratch.
        optimization_level: how long kernels are searched for, 0 to 5.
        tf32: let FP32 layers round what they read to 10 bits of mantissa, as TensorRT does by default.
        hardware_compatible: let the engine run on every GPU from Ampere on, perhaps slower.
        version_compatible: let the engine run in later releases of TensorRT.
        refit: let the engine's weights be replaced.
        dla: use the Deep Learning Accelerator of a Jetson where it has the layer; TensorRT 10 only.
        preprocess: take pixels, uint8 ``[n, h, w, 3]`` RGB; scaling and normalization are in the graph.
        softmax: give probabilities.
        labels: names of the classes, for the file's metadata.
        metadata: further entries; a run adds digests of the recipe up to here and of the checkpoint.
        opset: version of the ONNX operator set.

    Raises:
        InputRefused: TensorRT can't express the model, can't read it, or has no kernel for a layer.
        RecipeError: the batch sizes contradict each other, or TensorRT 11 is asked for DLA.
    """
    from rescompress import onnx_writing

    batches = _checked(model, (min_batch, opt_batch, max_batch))

    def write(keep_fp32: tuple[str, ...]) -> Any:
        return cast_first(onnx_writing.proto_of(
            model, spec, opset, floats=floats, float_biases=True, keep_fp32=keep_fp32, preprocess=preprocess,
            softmax=softmax, batch=batch, labels=labels, metadata=metadata,
        ))  # fmt: skip

    if hindrance := running.hindrance():
        progress.note(f"No engine is built: {hindrance}")
        (folder / ENTRY).write_bytes(write(()).SerializeToString(deterministic=True))
        return ENTRY
    settings = building.Settings(
        batches, workspace_mb << 20, optimization_level, tf32, hardware_compatible, version_compatible, refit, dla,
        floats == "fp16",
    )  # fmt: skip
    _write_engine(write, settings, folder)
    return ENTRY


def _write_engine(write: Callable[[tuple[str, ...]], Any], settings: building.Settings, folder: Path) -> None:
    """Build the engine and write it beside its file, sealed."""
    made_with = running.made_with()
    built = building.build(write, settings, building.cache_path(made_with))
    for name, content in ((ENTRY, built.onnx), (ENGINE, built.engine), (CACHE, built.timing_cache)):
        (folder / name).write_bytes(content)
    provenance.seal(folder, made_with)


def _checked(model: "nn.Module", batches: tuple[int, int, int]) -> tuple[int, int, int]:
    """The batch sizes; what no engine can be built for is refused."""
    from rescompress import fakequant

    if list(batches) != sorted(batches):
        said = ", ".join(map(str, batches))
        raise RecipeError(f"The batches {said} don't grow.", "Order min_batch, opt_batch and max_batch.")
    if any(site.dynamic for site in fakequant.sites_of(model)):
        raise InputRefused("TensorRT has no integers whose range is found at run time.", "Quantize with int8.")
    fakequant.check_scheme(model, SCHEME)
    return batches


def cast_first(proto: Any) -> Any:
    """Let pixels become floats before anything else, in place: TensorRT does nothing else to uint8 (`DataType.UINT8`).

    Args:
        proto: an ``onnx.ModelProto``; one that takes no pixels stays as it is.
    """
    transpose, cast_ = (
        next((node for node in proto.graph.node if node.name == f"preprocess.{op}"), None)
        for op in ("transpose", "cast")
    )
    if transpose is not None and cast_ is not None and cast_.input[0] == transpose.output[0]:
        first, second = (type(transpose)(), type(cast_)())
        first.CopyFrom(cast_)
        second.CopyFrom(transpose)
        first.input[0], second.output[0] = transpose.input[0], cast_.output[0]
        first.output[0] = second.input[0] = f"{transpose.input[0]}/cast"
        transpose.CopyFrom(first)
        cast_.CopyFrom(second)
    return proto


def load(artifact: Artifact, *, threads: int) -> "running.EngineSession | standing.StandIn":
    """Load the engine that was built here; without TensorRT or a GPU, a stand-in that climbs no rung.

    The stand-in runs ``model.onnx`` in ONNX Runtime, unoptimized: it checks the file's arithmetic, Q/DQ by Q/DQ, and
    says nothing of TensorRT.

    Args:
        artifact: holds an engine of this machine where one can be run.
        threads: of the stand-in; a GPU takes none.

    Raises:
        InputRefused: the engine wasn't built by this user on this machine, or can't be loaded.
        BackendMissing: neither TensorRT nor ONNX Runtime is here.
    """
    if running.hindrance():
        return standing.StandIn(artifact.entry, threads)
    return running.EngineSession(_trusted(artifact), portable=bool(artifact.manifest.knobs.get("version_compatible")))


def audit(artifact: Artifact) -> PrecisionReport:
    """Precision of each layer, read off the engine; where none can be loaded, predicted from the file and called so."""
    import onnx

    proto = onnx.load(str(artifact.entry))
    hindrance = running.hindrance()
    if hindrance:
        return inspecting.predicted(proto, hindrance)
    with load(artifact, threads=1) as session:
        return inspecting.read(cast(running.EngineSession, session).inspected(), proto)


def profile(artifact: Artifact, images: Images, *, threads: int) -> ProfileRow:
    """Time of each layer by TensorRT's own profiler, the median of many queries of these images.

    Raises:
        BackendMissing: TensorRT or the GPU is missing here.
    """
    import onnx

    if hindrance := running.hindrance():
        raise BackendMissing(f"TensorRT can't be profiled here: {hindrance}", "Profile where there is a GPU.")
    with load(artifact, threads=threads) as session:
        proto = onnx.load(str(artifact.entry))
        layers, total_ms = profiling.read(cast(running.EngineSession, session), images, proto)
    manifest = artifact.manifest
    return ProfileRow(manifest.label, manifest.backend, "TensorRT's profiler, medians", layers, total_ms)


def time_with_trtexec(artifact: Artifact, *, batch: int, seconds: int, transfers: bool = False) -> trtexec.Times:
    """Time the engine with NVIDIA's own ``trtexec``.

    Args:
        artifact: its engine was built here.
        batch: images in each batch.
        seconds: how long, after a warm-up.
        transfers: copy images to the GPU and answers back each time.

    Raises:
        BackendMissing: there is no ``trtexec``.
        InputRefused: the engine wasn't built by this user on this machine.
    """
    import onnx

    if trtexec.found() is None:
        raise BackendMissing("trtexec is not on the PATH.", "Install TensorRT's samples, or time without it.")
    _trusted(artifact)
    taken = onnx.load(str(artifact.entry)).graph.input[0]
    sides = [dimension.dim_value for dimension in taken.type.tensor_type.shape.dim]
    shape = (taken.name, (batch, *sides[1:])) if sides[0] == 0 else None
    return trtexec.run(artifact.folder / ENGINE, shape, seconds=seconds, transfers=transfers)


def _trusted(artifact: Artifact) -> bytes:
    """The engine's bytes, if this user built them on this machine: to load an engine is to run its code."""
    if ENGINE not in artifact.manifest.files:
        raise InputRefused(f"rescompress can't load {artifact.folder}: it holds no engine.", provenance.REMEDY)
    provenance.check(artifact.folder, running.made_with())
    return (artifact.folder / ENGINE).read_bytes()
