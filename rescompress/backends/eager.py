"""PyTorch itself, the reference: the artifact is our checkpoint; integers are fake-quantized, so all is float."""

import contextlib
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from rescompress.artifact import Artifact
from rescompress.backends import Images
from rescompress.errors import BackendMissing, InputRefused, RecipeError
from rescompress.spec import Floats, LayerPrecision, ModelSpec, PrecisionReport, Proportion, Rung
from rescompress.timing import ProfileRow

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rescompress.backends._cuda import Stopwatch
    from rescompress.ends import EndToEnd

SCHEME = None
ENTRY = "model.safetensors"
PACKAGES = ("torch",)
KINDS = {"conv": "conv", "linear": "linear", "add": "add", "max_pool": "pool", "avg_pool": "pool"}
"""Ops of a captured graph whose precision is reported."""
DTYPES = {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}
FAKE = "Fake-quants round to the grid of integers, but every kernel computes in float: a reference, no deployment."


def missing() -> str | None:
    """The pip requirement that is not installed here: none, as nothing of rescompress runs without PyTorch."""
    return None


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
    floats: Floats = "fp32",
    preprocess: bool = False,
    softmax: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
    tf32: bool = False,
    cuda_graphs: bool = False,
) -> str:
    """Write ``model.safetensors``, our own checkpoint, which rebuilds the network and unpickles nothing.

    Quantized weights are stored as their integers.

    Args:
        model: float or quantized.
        spec: the model's.
        folder: an empty folder.
        floats: what weights and activations are cast to when it is loaded; the file keeps FP32 of what isn't quantized.
        preprocess: scale and normalize in the network: it takes pixels.
        softmax: give probabilities instead of logits.
        device: where it runs.
        tf32: let a GPU round FP32's factors to TF32.
        cuda_graphs: launch all of a GPU's kernels at once, recorded at the first batch of each size.

    Raises:
        RecipeError: softmax without a classifier, floats other than FP32 of a quantized model, or TF32 or CUDA graphs
            without a GPU.
        BackendMissing: there is no GPU here.
    """
    from rescompress import checkpoint
    from rescompress.ends import EndToEnd

    if tf32 and (device, floats) != ("cuda", "fp32"):
        raise RecipeError("TF32 is how a GPU may compute FP32.", "Add device: cuda, or leave tf32 out.")
    if cuda_graphs and device != "cuda":
        raise RecipeError("CUDA graphs need a GPU.", "Add device: cuda, or leave cuda_graphs out.")
    _require(device)
    EndToEnd(model, spec, floats, preprocess, softmax)  # refuses what couldn't be loaded
    checkpoint.save(model, folder / ENTRY, integers=True)
    return ENTRY


class EagerSession:
    """A rebuilt network on its device, on as many threads as asked for."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        from rescompress.ends import settings

        knobs = artifact.manifest.knobs
        self.device = str(knobs.get("device", "cpu"))
        _require(self.device)
        self.module = _rebuilt(artifact).to(self.device)
        self._compute: Callable[[Tensor], Tensor] = self.module
        self._watch: Stopwatch | None = None
        if self.device == "cuda":
            from rescompress.backends import _cuda

            function = _cuda.recorded(self.module) if knobs.get("cuda_graphs") else self.module
            self._compute = self._watch = _cuda.Stopwatch(function)
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(settings(threads, bool(knobs.get("tf32"))))

    def __enter__(self) -> "EagerSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        del self.module, self._compute, self._watch

    @property
    def compute_ns(self) -> int | None:
        """What the last ``run`` took on the GPU's own clock, without copies; None on the CPU."""
        return self._watch.ns if self._watch else None

    def run(self, images: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images ``[n, 3, h, w]``, or pixels ``[n, h, w, 3]``, to logits, probabilities or maps, one row an image."""
        import torch

        if self._watch:
            self._watch.reset()
        with torch.inference_mode():
            rows = self._compute(torch.tensor(images, device=self.device))
        return cast(NDArray[np.float32], rows.cpu().numpy())


def load(artifact: Artifact, *, threads: int) -> EagerSession:
    """Rebuild the network on its device; on the CPU it takes so many threads."""
    return EagerSession(artifact, threads)


def audit(artifact: Artifact) -> PrecisionReport:
    """Precision of each convolution, linear layer, add and pool: the type of what it makes of a black image."""
    import torch

    from rescompress import fakequant, graph

    layers, counts = list[LayerPrecision](), Counter[str]()
    tf32 = bool(artifact.manifest.knobs.get("tf32"))

    def seen(node: torch.fx.Node, value: torch.Tensor) -> None:
        op = "fake-quant" if node.op == "call_module" else graph.op_of(node)
        if node.op.startswith("call"):
            counts[op] += 1
        if op in KINDS:
            dtype = "tf32" if tf32 and op in ("conv", "linear") else DTYPES[str(value.dtype)]
            layers.append(LayerPrecision(graph.name_of(node), KINDS[op], dtype))

    whole = _rebuilt(artifact, captured=True)
    with torch.no_grad():
        black = torch.zeros(1, *artifact.manifest.model.input_shape, dtype=whole.floats)
        graph.watch(cast(torch.fx.GraphModule, whole.network), black, seen)
    notes = (FAKE,) if fakequant.sites_of(whole.network) else ()
    return PrecisionReport(tuple(layers), dict(sorted(counts.items())), Proportion(0, sum(counts.values())), notes)


def profile(artifact: Artifact, images: Images, *, threads: int) -> ProfileRow:
    """Time of each op by the host's clock, the median of many queries; on a GPU, the host waits behind each op."""
    from rescompress.backends import _eager_profile
    from rescompress.ends import settings

    manifest = artifact.manifest
    whole = _rebuilt(artifact, captured=True).to(str(manifest.knobs.get("device", "cpu")))
    with settings(threads, bool(manifest.knobs.get("tf32"))):
        layers, total_ms = _eager_profile.read(whole, images, KINDS)
    return ProfileRow(manifest.label, manifest.backend, "PyTorch op by op, medians", layers, total_ms)


def _rebuilt(artifact: Artifact, captured: bool = False) -> "EndToEnd":
    """The network with its ends, on the CPU.

    Raises:
        InputRefused: the file is no checkpoint.
    """
    from rescompress import checkpoint, graph
    from rescompress.ends import EndToEnd

    manifest = artifact.manifest
    try:
        model = checkpoint.load(artifact.entry)
    except InputRefused as error:
        raise InputRefused(f"PyTorch can't load {artifact.entry}: {error.fact}", "Export the model again.") from None
    model = graph.capture(model, manifest.model.input_shape) if captured else model
    return EndToEnd(model, manifest.model, manifest.floats, manifest.takes_pixels, manifest.gives_probabilities)


def _require(device: str) -> None:
    """Refuse a GPU that isn't there; nothing falls back to the CPU.

    Raises:
        BackendMissing: there is no GPU here.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise BackendMissing("PyTorch sees no GPU here.", "Leave device out, or run where there is one.")
