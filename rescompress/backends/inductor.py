"""PyTorch's own compiler: an AOTInductor package for the CPU or the GPU of this machine, in FP32, BF16 or FP16."""

import contextlib
import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rescompress import provenance
from rescompress.artifact import Artifact, to_json
from rescompress.errors import BackendMissing, InputRefused, RecipeError
from rescompress.spec import Floats, ModelSpec, PrecisionReport, Proportion, Rung

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rescompress.backends._cuda import Stopwatch

SCHEME = None
ENTRY, LAYERS = "model.pt2", "layers.json"
PACKAGES = ("torch",)
KINDS = {"conv": "conv", "linear": "linear", "add": "add", "max_pool": "pool", "avg_pool": "pool"}
"""Ops of a captured graph whose precision is reported."""
NOTE = "The kernels that Inductor generates, for adds and pools, keep values in {floats} and compute in FP32."
REFUSED = (
    "Inductor compiles a quantized network without a word, and then computes every convolution in float "
    "(PyTorch 2.13: it finds integer kernels in the graphs of its own quantizer alone)."
)


def missing() -> str | None:
    """The pip requirement that is not installed here: none, as Inductor is a part of PyTorch."""
    return None


def rung() -> tuple[Rung, str]:
    """The highest rung that an artifact can climb on this machine, and what hinders more."""
    from rescompress.backends import _inductor_build as build

    return ("L3", "") if build.has_compiler() else ("L0", "There is no C++ compiler here, so nothing is compiled.")


def versions() -> dict[str, str]:
    """Releases of the packages that make and run the artifact."""
    return {package: metadata.version(package) for package in PACKAGES}


def export(
    model: "nn.Module",
    spec: ModelSpec,
    folder: Path,
    *,
    floats: Floats = "fp32",
    preprocess: bool = False,
    softmax: bool = False,
    batch: Annotated[int, Field(ge=1)] | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    tf32: bool = False,
    channels_last: bool = True,
    max_autotune: bool = False,
    cuda_graphs: bool = False,
) -> str:
    """Write ``model.pt2``, compiled for this machine, with a seal; no other machine or user loads it.

    Args:
        model: float.
        spec: the model's.
        folder: an empty folder.
        floats: what weights and activations are.
        preprocess: scale and normalize in the network: it takes pixels.
        softmax: give probabilities instead of logits.
        batch: images that one call takes; any number where it is left out.
        device: what it is compiled for.
        tf32: let a GPU round FP32's factors to TF32.
        channels_last: store weights with channels last, as the kernels want them, or they are turned at every call.
        max_autotune: try several kernels for each layer and keep the fastest; compiling takes minutes longer.
        cuda_graphs: launch all of a GPU's kernels at once; needs a fixed batch.

    Raises:
        InputRefused: the model is quantized, or Inductor can't compile it.
        RecipeError: softmax without a classifier, TF32 or CUDA graphs without a GPU, or CUDA graphs of any batch.
        BackendMissing: there is no GPU here, or no C++ compiler.
    """
    import torch

    from rescompress import fakequant
    from rescompress.backends import _inductor_build as build
    from rescompress.ends import EndToEnd, settings

    if fakequant.sites_of(model):
        raise InputRefused(REFUSED, "Export to onnxruntime or openvino, or leave quantize out.")
    if tf32 and (device, floats) != ("cuda", "fp32"):
        raise RecipeError("TF32 is how a GPU may compute FP32.", "Add device: cuda, or leave tf32 out.")
    if cuda_graphs and (device != "cuda" or batch is None):
        raise RecipeError("CUDA graphs need a GPU and a fixed batch.", "Add device: cuda and batch, or leave them out.")
    _require(device)
    whole = EndToEnd(model, spec, floats, preprocess, softmax).to(device).eval()
    if channels_last:
        whole = whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    crop = spec.preprocessing.crop
    shape = (batch or 2, crop, crop, 3) if preprocess else (batch or 2, 3, crop, crop)
    example = torch.zeros(shape, dtype=torch.uint8 if preprocess else torch.float32, device=device)
    with settings(torch.get_num_threads(), tf32):
        kernels = build.compile_package(whole, example, batch is None, max_autotune, folder / ENTRY)
    (folder / LAYERS).write_bytes(to_json({"layers": _layers(model, spec), "kernels": kernels}))
    provenance.seal(folder, _made_with(device))
    return ENTRY


class InductorSession:
    """Compiled code that runs, on as many threads as asked for."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        import torch

        from rescompress.ends import settings

        knobs = artifact.manifest.knobs
        self.device, self._batch = str(knobs.get("device", "cpu")), knobs.get("batch")
        _require(self.device)
        provenance.check(artifact.folder, _made_with(self.device))
        graphs = bool(knobs.get("cuda_graphs"))
        try:
            self.compiled: Any = torch._inductor.aoti_load_package(str(artifact.entry), run_single_threaded=graphs)
        except (RuntimeError, ValueError) as error:
            brief = str(error).partition("\n")[0].rstrip(".")
            raise InputRefused(f"Inductor can't load {artifact.entry}: {brief}.", "Export the model again.") from None
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(settings(threads, bool(knobs.get("tf32"))))
        self._watch: Stopwatch | None = None
        if self.device == "cuda":
            from rescompress.backends import _cuda

            self._watch = _cuda.Stopwatch(_cuda.recorded(self.compiled) if graphs else self.compiled)
            self.compiled = self._watch

    def __enter__(self) -> "InductorSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        del self.compiled, self._watch

    @property
    def compute_ns(self) -> int | None:
        """What the last ``run`` took on the GPU's own clock, without copies, all its batches; None on the CPU."""
        return self._watch.ns if self._watch else None

    def run(self, images: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images ``[n, 3, h, w]``, or pixels ``[n, h, w, 3]``, to logits, probabilities or maps, one row an image."""
        import torch

        if self._watch:
            self._watch.reset()
        given = torch.tensor(images)  # a copy, contiguous and aligned
        with torch.inference_mode():
            if self._batch is None:
                return np.asarray(self._answer(given).numpy())
            rows = [self._answer(_padded(part, self._batch))[: len(part)] for part in torch.split(given, self._batch)]
            return np.asarray(torch.cat(rows).numpy())

    def _answer(self, images: "Tensor") -> "Tensor":
        answer: Tensor = self.compiled(images.to(self.device))
        return answer.cpu()


def load(artifact: Artifact, *, threads: int) -> InductorSession:
    """Load compiled code that this user built on this machine.

    Raises:
        InputRefused: somebody else built it, or it was changed.
    """
    return InductorSession(artifact, threads)


def audit(artifact: Artifact) -> PrecisionReport:
    """Precision of each layer by what its kernel gets: PyTorch's as they run, generated ones as they are written."""
    from rescompress.backends import _inductor_audit as look

    manifest = artifact.manifest
    crop, batch = manifest.model.preprocessing.crop, manifest.knobs.get("batch") or 1
    shape = (batch, crop, crop, 3) if manifest.takes_pixels else (batch, 3, crop, crop)
    black = np.zeros(shape, np.uint8 if manifest.takes_pixels else np.float32)
    with InductorSession(artifact, 1) as session:
        session.run(black)
        called = look.calls(lambda: session.run(black))
    built = json.loads((artifact.folder / LAYERS).read_bytes())
    layers = look.precisions(built["layers"], called, built["kernels"])
    if manifest.knobs.get("tf32"):
        layers = tuple(replace(row, precision="tf32") if row.op in ("conv", "linear") else row for row in layers)
    counts = look.counts(called, built["kernels"])
    notes = () if manifest.floats == "fp32" else (NOTE.format(floats=manifest.floats.upper()),)
    return PrecisionReport(layers, counts, Proportion(0, sum(counts.values())), notes)


def _layers(model: "nn.Module", spec: ModelSpec) -> list[dict[str, Any]]:
    """The layers whose precision is reported, those with weights with their shapes."""
    from rescompress import graph

    traced = graph.capture(model, spec.input_shape)
    rows: list[dict[str, Any]] = []
    for node in traced.graph.nodes:
        op = KINDS.get(graph.op_of(node))
        if op:
            weighted = op in ("conv", "linear")
            shape = list(graph.tensor_of(traced, node.args[1]).shape) if weighted else []
            rows.append({"layer": graph.name_of(node), "op": op, "shape": shape})
    return rows


def _padded(images: "Tensor", batch: int) -> "Tensor":
    """So many images, the last one repeated."""
    import torch

    return torch.cat([images, images[-1:].expand(batch - len(images), *images.shape[1:])])


def _made_with(device: str) -> dict[str, str]:
    """What compiled code depends on beside the processor."""
    import torch

    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)} if device == "cuda" else {}
    return {"torch": torch.__version__, **gpu}


def _require(device: str) -> None:
    """Refuse a GPU that isn't there; nothing falls back to the CPU.

    Raises:
        BackendMissing: there is no GPU here.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise BackendMissing("PyTorch sees no GPU here.", "Leave device out, or run where there is one.")
