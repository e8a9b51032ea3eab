"""Will it fuse? What TensorRT will run in INT8, and which places of Q and DQ cost a kernel, read off an ONNX graph.

Nothing is built or run: a prediction from published rules, each with its source (`_tensorrt_rules` and
`_tensorrt_joins`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rescompress.backends import _tensorrt_joins as joins
from rescompress.backends import _tensorrt_rules as rules
from rescompress.backends._tensorrt_rules import Finding
from rescompress.backends._tensorrt_view import (
    ACTIVATIONS,
    DEQUANTIZE,
    MOVES,
    POOLS,
    QUANTIZE,
    WEIGHTED,
    View,
    name_of,
)
from rescompress.spec import LayerPrecision, PrecisionReport, Proportion

if TYPE_CHECKING:
    import onnx

Precision = Literal["int8", "fp32", "fp16", "bf16"]
FLOATS: dict[str, Precision] = {"FLOAT16": "fp16", "BFLOAT16": "bf16"}
PREFIX = "Predicted, not built:"
NO_KERNEL = (QUANTIZE, DEQUANTIZE, *MOVES, "Cast", "Constant", "Shape", "Gather", "Concat")
"""Ops that count as no kernel: they fuse with their neighbours, or only move values."""


class Kernel(NamedTuple):
    """What computes some nodes: their ops in order, such as ``conv``, ``add``, ``relu``; its first and last node."""

    ops: tuple[str, ...]
    first: Any
    last: Any


Verdicts = Mapping[str, tuple[bool, str]]
"""By a node's name, whether it computes in INT8, and the rule that decided."""


@dataclass(frozen=True)
class PredictedLayer:
    """What TensorRT should make of one convolution, linear layer, add of two activations or pool.

    Attributes:
        name: the node's, such as ``layer1.0.conv1``.
        op: ``conv``, ``linear``, ``add`` or ``pool``.
        precision: what it multiplies or adds in.
        fused_into: the kernel that computes it, such as ``conv+add+relu``; None where it has one for itself.
        reason: the rule that decided.
    """

    name: str
    op: str
    precision: Precision
    fused_into: str | None
    reason: str


@dataclass(frozen=True)
class Prediction:
    """What TensorRT should make of a graph.

    Attributes:
        layers: in the graph's order.
        findings: rules that the graph breaks, in the graph's order.
        kernels: how many kernels there are, by what they compute and what in.
    """

    layers: tuple[PredictedLayer, ...]
    findings: tuple[Finding, ...]
    kernels: tuple[tuple[str, Precision, int], ...]

    @property
    def builds(self) -> bool:
        """Whether no rule is broken at which TensorRT refuses the graph."""
        return all(finding.breaks != "build" for finding in self.findings)

    def report(self) -> PrecisionReport:
        """The prediction as a precision audit; each note says that it is one."""
        counts: Counter[str] = Counter()
        for kernel, _, number in self.kernels:
            counts[kernel] += number
        int8 = sum(number for _, precision, number in self.kernels if precision == "int8")
        layers = tuple(LayerPrecision(layer.name, layer.op, layer.precision) for layer in self.layers)
        notes = tuple(f"{PREFIX} {note}" for note in (self._shares(), *self._summed()))
        return PrecisionReport(layers, dict(sorted(counts.items())), Proportion(int8, counts.total()), notes)

    def _shares(self) -> str:
        """How many layers of each op are INT8."""
        totals = Counter(layer.op for layer in self.layers)
        int8 = Counter(layer.op for layer in self.layers if layer.precision == "int8")
        return "INT8 for " + (", ".join(f"{int8[op]} of {totals[op]} {op}" for op in totals) or "no layer") + "."

    def _summed(self) -> Iterator[str]:
        """One sentence a broken rule, however many nodes break it."""
        for (rule, breaks), number in Counter((found.rule, found.breaks) for found in self.findings).items():
            first = next(found for found in self.findings if (found.rule, found.breaks) == (rule, breaks))
            others = f" and {number - 1} more" if number > 1 else ""
            yield f"{first.node}{others} ({breaks}): {first.sentence} [{first.source}]"


def predict(proto: "onnx.ModelProto") -> Prediction:
    """What TensorRT should make of an ONNX model with Q and DQ, in a strongly typed network.

    Args:
        proto: the model as it goes to TensorRT's parser.
    """
    view = View(proto)
    active = [node for node in view.nodes if not view.is_constant(node.output[0])]
    findings = [found for node in view.nodes if node.op_type in (QUANTIZE, DEQUANTIZE) for found in _pair(view, node)]
    weighted = [node for node in active if node.op_type in WEIGHTED and view.is_constant(node.input[1])]
    verdicts = {name_of(node): _weighted(view, node, findings) for node in weighted}
    adds = [node for node in active if _is_add(view, node)]
    carriers = {name_of(node): joins.carrier_of(view, node) for node in adds}
    for node in adds:
        carrier = carriers[name_of(node)]
        int8 = carrier is not None and verdicts[name_of(carrier)][0]
        verdicts[name_of(node)] = _noted(joins.judge_add(view, node, carrier, int8), findings)
    for node in active:
        if node.op_type in POOLS:
            verdicts[name_of(node)] = _noted(joins.judge_pool(view, node), findings)
        findings += rules.of(view, node, joins.ELSEWHERE)
    kernels = _kernels(view, active, carriers)
    layers = tuple(_layer(view, node, verdicts, kernels[name_of(node)]) for node in active if name_of(node) in verdicts)
    whole = [kernel for name, kernel in kernels.items() if name == name_of(kernel.first)]
    counts = Counter(("+".join(kernel.ops), _precision(view, kernel.first, verdicts)) for kernel in whole)
    findings += _float_scales(view, whole, verdicts)
    findings.sort(key=lambda found: view.place(view.node(found.node)))
    return Prediction(layers, tuple(findings), tuple(sorted((*kernel, number) for kernel, number in counts.items())))


def _pair(view: View, node: Any) -> Iterator[Finding]:
    return rules.of(view, node, rules.PAIRS)


def _noted(verdict: joins.Verdict, findings: list[Finding]) -> tuple[bool, str]:
    """A verdict without its finding, which goes to the others."""
    int8, reason, found = verdict
    findings += [found] if found else []
    return int8, reason


def _weighted(view: View, node: Any, findings: list[Finding]) -> tuple[bool, str]:
    """Whether a layer with weights computes in INT8, and why; what it breaks goes to the other findings."""
    found = list(rules.of(view, node, rules.NEEDED))
    hindered = [finding for finding in found if finding.breaks == "int8"]
    unquantized = {finding.rule for finding in hindered} >= {"input_is_dequantized", "weight_is_dequantized"}
    if hindered:
        findings += () if unquantized else found
        findings += rules.of(view, node, (rules.half_groups_build,))
        return False, hindered[0].sentence
    findings += (*found, *rules.of(view, node, rules.IN_INT8))
    return True, "Its input and its weight come from DQ."


def _is_add(view: View, node: Any) -> bool:
    """Whether a node adds two activations."""
    return node.op_type == "Add" and not any(view.is_constant(source) for source in node.input)


def _kernels(view: View, active: list[Any], carriers: Mapping[str, Any]) -> dict[str, Kernel]:
    """The kernel of each node, by the node's name."""
    kernels: dict[str, Kernel] = {}
    carried = {name for name, carrier in carriers.items() if carrier is not None}
    for node in active:
        if name_of(node) in kernels or name_of(node) in carried or node.op_type in NO_KERNEL:
            continue
        ops, chain = [_op(node)], [node]
        while (behind := view.alone_behind(chain[-1])) is not None and (op := _joined(behind, node, ops, carriers)):
            ops.append(op)
            chain.append(behind)
        kernels.update({name_of(part): Kernel(tuple(ops), node, chain[-1]) for part in chain})
    return kernels


def _joined(behind: Any, first: Any, ops: list[str], carriers: Mapping[str, Any]) -> str:
    """What a node is to the kernel before it; empty where it starts one of its own."""
    carrier = carriers.get(name_of(behind))
    if carrier is not None and name_of(carrier) == name_of(first) and "relu" not in ops:
        return "add"
    if behind.op_type == "BatchNormalization" and ops == ["conv"]:
        return "bn"
    return "relu" if behind.op_type in ACTIVATIONS and "relu" not in ops and ops[-1] != "pool" else ""


def _op(node: Any) -> str:
    """What our reports call a node's op."""
    if node.op_type in POOLS:
        return "pool"
    return WEIGHTED.get(node.op_type, {"BatchNormalization": "bn"}.get(node.op_type, str(node.op_type).lower()))


def _precision(view: View, node: Any, verdicts: Verdicts) -> Precision:
    """What a node computes in."""
    int8, _ = verdicts.get(name_of(node), (False, ""))
    return "int8" if int8 else FLOATS.get(view.element_type(node.output[0]), "fp32")


def _layer(view: View, node: Any, verdicts: Verdicts, kernel: Kernel) -> PredictedLayer:
    """A judged node, with the kernel that computes it."""
    int8, reason = verdicts[name_of(node)]
    if int8 and node.op_type in WEIGHTED:
        writes = "INT8" if view.leaves_as_integers(kernel.last.output[0]) else "floats"
        reason = f"{reason.rstrip('.')}; its kernel writes {writes}."
    fused = "+".join(kernel.ops) if len(kernel.ops) > 1 else None
    return PredictedLayer(name_of(node), _op(node), _precision(view, node, verdicts), fused, reason)


def _float_scales(view: View, kernels: list[Kernel], verdicts: Verdicts) -> Iterator[Finding]:
    """A DQ writes what its scale is, so with FP32 scales all that isn't INT8 computes in FP32."""
    scales = {view.element_type(node.input[1]) for node in view.nodes if node.op_type == QUANTIZE}
    floats = [name for kernel in kernels if not verdicts.get(name := name_of(kernel.first), (False, ""))[0]]
    if "FLOAT" in scales and floats:
        said = f"Scales are FP32, so {len(floats)} kernels that aren't INT8 compute in FP32: store scales as FP16."
        yield Finding(floats[0], "scales_are_half", "speed", said, rules.STRONG)
