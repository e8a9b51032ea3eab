"""The frozen values that travel: what a model is, what a runtime wants, and the rows a run writes."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from rescompress.agreement import Evidence
from rescompress.agreement import Proportion as Proportion
from rescompress.timing import BenchmarkRow as BenchmarkRow
from rescompress.timing import LatencyRow as LatencyRow
from rescompress.timing import RuleRow as RuleRow
from rescompress.timing import Verdict as Verdict
from rescompress.views import Cost as Cost
from rescompress.views import Inspection
from rescompress.views import LayerCost as LayerCost

Precision = Literal["fp32", "int8", "w4a8", "dynamic", "w8", "w4"]
"""What of a model is integers: nothing; weights and activations, or with weights in 4 bits; weights, and activations by
their range at run time; weights alone, in 8 or in 4 bits."""
Floats = Literal["fp32", "fp16", "bf16"]
"""What is computed in where integers aren't."""
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
"""Of one number."""
Rung = Literal["L0", "L1", "L2", "L3"]
"""How far an artifact is proven: L0 written; L1 contract-tested against the vendor's real API; L2 executed, in the
vendor's runtime or in a bit-faithful interpreter, and verified; L3 timed on the device."""
Output = Literal["logits", "maps"]


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded RGB image to the network's input: resize, centre-crop, scale to [0, 1], normalize.

    Attributes:
        resize: length of the shorter side after resizing, in pixels.
        crop: side of the centre crop, in pixels; the network's input is ``3 x crop x crop``.
        mean: per-channel mean of the [0, 1] image that is subtracted.
        std: per-channel standard deviation that is divided by.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Preprocessing(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR = Preprocessing(resize=32, crop=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


AS_IN_FILE = -1
"""A number of classes that a checkpoint is left to tell."""


@dataclass(frozen=True)
class ModelSpec:
    """Which stock network a model was built from; enough to build it again with random weights.

    Attributes:
        family: file in ``rescompress/models``.
        architecture: the makers' own name.
        classes: outputs of the classifier; 0 where there is none.
        preprocessing: how its images are prepared.
        arguments: of the family's build function.
        output: what it gives back.
    """

    family: str
    architecture: str
    classes: int
    preprocessing: Preprocessing
    arguments: dict[str, Any] = field(default_factory=dict)
    output: Output = "logits"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one input image, ``(3, crop, crop)``."""
        return (3, self.preprocessing.crop, self.preprocessing.crop)

    def __str__(self) -> str:
        tail = f", {self.classes} classes" if self.classes else ", no classifier"
        return f"{self.family} {self.architecture}{tail}"


@dataclass(frozen=True)
class StageRow:
    """One stage of a run as eager PyTorch sees it. Holds nothing that two equal runs would not share."""

    index: int
    stage: str
    knobs: dict[str, Any]
    key: str
    checkpoint: str
    sha256: str
    cost: Cost
    accuracy: Proportion | None
    notes: tuple[str, ...] = ()
    runtime: str = ""

    @property
    def label(self) -> str:
        """Folder-safe name, such as ``01-prune``, or ``02-quantize-openvino`` where a stage was done for several."""
        return f"{self.index:02d}-{self.stage}" + (f"-{self.runtime}" if self.runtime else "")


@dataclass(frozen=True)
class LayerPrecision:
    """The precision that one layer really has in a built artifact."""

    layer: str
    op: str
    precision: str


@dataclass(frozen=True)
class PrecisionReport:
    """Read off the graph that the runtime optimized, never off the graph we wrote.

    Attributes:
        layers: each convolution, linear layer, add and pool of the exported model.
        op_counts: how many nodes of each type the optimized graph has.
        int8_nodes: how many of its nodes compute in integers, of all that do more than move values.
        notes: what stands out, a sentence each.
    """

    layers: tuple[LayerPrecision, ...]
    op_counts: dict[str, int]
    int8_nodes: Proportion = field(default=Proportion(0, 0))
    notes: tuple[str, ...] = ()

    def int8_share(self, op: str) -> Proportion:
        """How many of the layers with this op (``conv``, ``add``, ``linear``, ``pool``) run in INT8."""
        chosen = [layer for layer in self.layers if layer.op == op]
        return Proportion(sum(layer.precision == "int8" for layer in chosen), len(chosen))


@dataclass(frozen=True)
class VerificationRow:
    """What an artifact computes in its own runtime, in a fresh process, against eager PyTorch.

    Attributes:
        accuracy: top-1 of the artifact on the test split; None without labelled data.
        reference_accuracy: top-1 of the same model in eager PyTorch on the same images.
        max_abs: largest absolute difference between the two sets of logits, or of maps.
        sqnr_db: signal to quantization noise ratio of the artifact's logits, in dB (eager is the signal).
        agreement: images on which both name the same class; 0 of 0 where the model names none.
        inputs: ``test split`` or ``noise`` (seeded normal images, where no data is given).
        precision: what of the exported model is integers; the thresholds are this precision's.
        failures: the thresholds that were crossed, a sentence each; empty means verified.
        floats: what is computed in where integers aren't.
        rung: what this verification proves: L2 if the runtime itself ran and nothing failed.
        evidence: what else was measured, and the thresholds.
    """

    label: str
    backend: str
    inputs: str
    accuracy: Proportion | None
    reference_accuracy: Proportion | None
    max_abs: float
    sqnr_db: float
    agreement: Proportion
    precision: Precision
    failures: tuple[str, ...]
    floats: Floats = "fp32"
    rung: Rung = "L0"
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True)
class ArtifactRow:
    """One exported artifact: where it is, what it weighs, what was proven about it.

    ``highest`` is the highest rung that its backend can climb here, and ``hindrance`` a sentence on what hinders more.
    ``entry`` is the file in the folder that the runtime loads, and ``knobs`` those that it was exported with.
    """

    label: str
    backend: str
    folder: str
    sha256: str
    size_bytes: int
    precision: PrecisionReport
    verification: VerificationRow
    highest: Rung = "L3"
    hindrance: str = ""
    notes: tuple[str, ...] = ()
    entry: str = ""
    knobs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment:
    """The machine and the releases that a run used."""

    machine: str
    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    isa: tuple[str, ...]
    packages: dict[str, str]


@dataclass(frozen=True)
class GateRow:
    """The last word of a run: is the final artifact good enough?"""

    max_accuracy_drop: float
    accuracy_drop: float | None
    passed: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class RunReport:
    """Everything one run found out. ``report.json`` is this, and the other reports are drawn from it.

    ``network`` is the last stage's model layer by layer, and ``spec`` what the model was built from; None in reports of
    releases that didn't look. ``rules`` is what the latency gate found.
    """

    schema: str
    name: str
    tool_version: str
    model: str
    data: str | None
    command: str
    recipe_yaml: str
    stages: tuple[StageRow, ...]
    artifacts: tuple[ArtifactRow, ...]
    benchmark: BenchmarkRow | None
    gate: GateRow | None
    environment: Environment
    network: Inspection | None = None
    spec: ModelSpec | None = None
    rules: tuple[RuleRow, ...] = ()


REPORT_SCHEMA = "rescompress.report/1"
