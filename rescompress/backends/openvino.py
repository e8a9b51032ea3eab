"""OpenVINO on CPUs: an IR read from our ONNX, u8 activations, s8 weights per channel, adds and pools in INT8 too."""

from collections import Counter
from importlib import metadata, util
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rescompress.artifact import Artifact
from rescompress.backends import Images, _openvino_layers, _openvino_profile, _openvino_write, in_batches
from rescompress.backends._openvino_graph import info, layers_of
from rescompress.errors import BackendMissing, InputRefused
from rescompress.schemes import OPENVINO
from rescompress.spec import Floats, LayerPrecision, ModelSpec, PrecisionReport, Proportion, Rung
from rescompress.timing import ProfileRow

if TYPE_CHECKING:
    from torch import nn

SCHEME = OPENVINO
DEVICE = "CPU"
ENTRY, OPSET = "model.xml", 21
REQUIREMENT = "rescompress[onnx,openvino]"
PACKAGES = ("onnx", "onnxscript", "openvino")
BUILT = {
    "conv": ("Convolution",),
    "linear": ("FullyConnected", "MatMul"),
    "add": ("Convolution", "Eltwise", "Subgraph"),
    "pool": ("Pooling", "Reduce"),
}
"""Layers of the compiled model that an op may have become, the likeliest first."""
COMPUTING = tuple({name for names in BUILT.values() for name in names})
NO_WORK = ("Const", "Input", "Output", "Reorder", "Reshape")
"""Layers of the compiled model that only hold or move values."""
INTEGERS = ("u8", "i8")
PRECISIONS = {"u8": "int8", "i8": "int8", "f16": "fp16", "bf16": "bf16"}
"""What a compiled layer computes in; anything else is FP32."""


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
    floats: Literal["fp32", "fp16"] = "fp32",
    preprocess: bool = False,
    softmax: bool = False,
    batch: Annotated[int | None, Field(ge=1)] = None,
) -> str:
    """Write ``model.xml`` and ``model.bin``: INT8 weights stored as INT8, nodes named after the modules.

    OpenVINO's own ``convert_model`` is left out: on a terminal it stops to ask whether it may send usage data.

    Args:
        model: float or quantized.
        spec: the model's.
        folder: an empty folder.
        floats: what float weights are stored in, and what is computed in where integers aren't, on CPUs that have it;
            others compute in FP32. What goes in and comes out stays FP32.
        preprocess: scale and normalize in the graph: it takes uint8 pixels [n, h, w, 3], RGB.
        softmax: give probabilities instead of logits.
        batch: images in each batch; left out, any number.

    Raises:
        InputRefused: the model's ranges are found at run time, or OpenVINO can't read what the exporter wrote.
        RecipeError: softmax without a classifier.
    """
    import openvino
    from openvino._offline_transformations import apply_moc_transformations

    from rescompress import fakequant, onnx_writing

    if any(site.dynamic for site in fakequant.sites_of(model)):
        raise InputRefused(
            "OpenVINO computes in float where ranges are found at run time.", "Quantize with int8, or export to onnx."
        )
    proto = onnx_writing.proto_of(
        model, spec, OPSET, float_biases=True, preprocess=preprocess, softmax=softmax, batch=batch
    )
    try:
        network = openvino.Core().read_model(proto.SerializeToString(deterministic=True))
        apply_moc_transformations(network, cf=False, smart_reshape=True)  # what convert_model runs
    except RuntimeError as error:
        raise InputRefused(f"OpenVINO can't read the model: {_brief(error)}.", "Export to onnxruntime.") from None
    _openvino_write.tidy(network)
    openvino.save_model(network, folder / ENTRY, compress_to_fp16=floats == "fp16")
    _openvino_write.compact(folder / ENTRY)
    return ENTRY


class OpenvinoSession:
    """A compiled model on the CPU, on as many threads as asked for, which is asserted.

    Args:
        path: the IR.
        threads: of the whole model.
        floats: what is computed in where integers aren't.
        counting: whether its counters add up what each layer takes.
    """

    def __init__(self, path: Path, threads: int, floats: Floats = "fp32", counting: bool = False) -> None:
        import openvino

        options = {**_options(threads, floats), "PERF_COUNT": counting}
        try:
            self.compiled: Any = openvino.Core().compile_model(path, DEVICE, options)
        except RuntimeError as error:
            raise InputRefused(f"OpenVINO can't load {path}: {_brief(error)}.", "Export the model again.") from None
        devices, got = (self.compiled.get_property(name) for name in ("EXECUTION_DEVICES", "INFERENCE_NUM_THREADS"))
        if list(devices) != [DEVICE]:
            raise BackendMissing(f"OpenVINO fell back to {', '.join(devices)}.", "Reinstall it.")
        if got != threads:
            raise InputRefused(f"OpenVINO takes {got} threads, not {threads}.", f"Ask for {got}.")
        self.request: Any = self.compiled.create_infer_request()
        first = self.compiled.input(0).get_partial_shape()[0]
        self._batch: int | None = None if first.is_dynamic else first.get_length()

    def __enter__(self) -> "OpenvinoSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self.request, self.compiled

    def run(self, images: Images) -> NDArray[np.float32]:
        """Images as the model takes them to logits ``[n, classes]``, or to what else it gives, one row an image.

        Where the batch is fixed, the last one is filled up with zeros.
        """
        return in_batches(self._once, images, self._batch)

    def runs_for(self, count: int) -> int:
        """How many runs so many images take."""
        return -(-count // self._batch) if self._batch else 1

    def _once(self, images: Images) -> NDArray[np.float32]:
        answer = self.request.infer([images], share_inputs=True, share_outputs=True)
        outputs: list[NDArray[np.float32]] = [answer[port] for port in self.compiled.outputs]
        return np.concatenate([output.reshape(len(output), -1) for output in outputs], 1)


def load(artifact: Artifact, *, threads: int) -> OpenvinoSession:
    """Compile an artifact for so many threads and the lowest latency."""
    return OpenvinoSession(artifact.entry, threads, artifact.manifest.floats)


def audit(artifact: Artifact) -> PrecisionReport:
    """Precision of each convolution, linear layer, add and pool, read off the model that OpenVINO compiled."""
    import openvino

    floats = artifact.manifest.floats
    with OpenvinoSession(artifact.entry, 1, floats) as session:
        half = session.compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f16
        built = [info(op, half) for op in session.compiled.get_runtime_model().get_ordered_ops()]
    working, exported = [layer for layer in built if layer["layerType"] not in NO_WORK], layers_of(artifact.entry)
    found = [(layer, exported.made_of(layer)) for layer in working]
    layers = []
    for name, kind in exported.kinds.items():
        now = [layer for layer, names in found if name in names and layer["layerType"] in BUILT[kind]]
        got = {PRECISIONS.get(layer["runtimePrecision"], "fp32") for layer in now}
        layers.append(LayerPrecision(name, kind, got.pop() if len(got) == 1 else "fp32"))
    counts = Counter(f"{layer['layerType']} {layer['runtimePrecision']}" for layer in working)
    computing = sum(layer["runtimePrecision"] in INTEGERS and layer["layerType"] in COMPUTING for layer in working)
    notes = _widened(layers, floats)
    return PrecisionReport(tuple(layers), dict(sorted(counts.items())), Proportion(computing, len(working)), notes)


def layers(artifact: Artifact, images: Images) -> dict[str, NDArray[np.float32]]:
    """What OpenVINO computes inside, as it compiles the model."""
    return _openvino_layers.built(artifact.entry, images, _options(1, artifact.manifest.floats))


def profile(artifact: Artifact, images: Images, *, threads: int) -> ProfileRow:
    """Time of each layer by OpenVINO's own counters, the mean of many queries of these images."""
    manifest = artifact.manifest
    with OpenvinoSession(artifact.entry, threads, manifest.floats, counting=True) as session:
        ops, exported = session.compiled.get_runtime_model().get_ops(), layers_of(artifact.entry)
        compiled = {op.get_friendly_name(): info(op, half=False) for op in ops}
        layers, total_ms = _openvino_profile.read(
            lambda: session.run(images),
            lambda: _openvino_profile.counters_of(session.request),
            session.runs_for(len(images)),
            {name: exported.made_of(layer) for name, layer in compiled.items()},
            {name: layer["layerType"] for name, layer in compiled.items()},
            exported.kinds,
        )
    return ProfileRow(manifest.label, manifest.backend, "OpenVINO's counters, means", layers, total_ms)


def _widened(layers: list[LayerPrecision], floats: Floats) -> tuple[str, ...]:
    """A sentence where FP16 was asked for and FP32 is computed."""
    wide = sum(layer.precision == "fp32" for layer in layers)
    if floats != "fp16" or not wide:
        return ()
    return (
        f"{wide} of {len(layers)} layers compute in FP32: OpenVINO has no FP16 for this CPU. FP16 saves space here.",
    )


def _options(threads: int, floats: Floats) -> dict[str, Any]:
    """Of the compilation; where the CPU has no FP16, asking for it would give BF16, so FP32 is asked for."""
    import openvino

    half = floats == "fp16" and "FP16" in openvino.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f16" if half else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else weight-only layers would round their inputs too
    }


def _brief(error: Exception) -> str:
    """The last line of a message that begins with where in OpenVINO's sources it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1].rstrip(".")
