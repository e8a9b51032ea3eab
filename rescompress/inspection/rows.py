"""The rows of an inspection, put together from what was found out about a network."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from math import isnan, prod

from rescompress import cost
from rescompress.inspection import activations, findings, structure, weights
from rescompress.inspection.activations import Measured
from rescompress.inspection.network import Network, Op
from rescompress.spec import Cost
from rescompress.views import INSPECTION_SCHEMA, BlockView, Finding, GroupView, Inspection, LayerView, Totals

WORST_FIRST = ("error", "warning", "note")
Grouping = tuple[tuple[GroupView, ...], tuple[str, ...]]


def compose(
    network: Network,
    model: str,
    total: Cost,
    *,
    grouping: Grouping = ((), ()),
    measured: Measured | None = None,
    images: str | None = None,
    more: Sequence[Finding] = (),
) -> Inspection:
    """The whole inspection.

    Args:
        network: its steps.
        model: what to call it.
        total: what it costs.
        grouping: its dependency groups, and the layers because of which others can't be cut.
        measured: what images showed.
        images: which images these were.
        more: findings that can't be read off the steps.
    """
    stride = structure.strides(network)
    blocks = structure.blocks(network, stride)
    block_of = {layer: block.name for block in blocks for layer in block.layers}
    group_of = {layer: group.name for group in grouping[0] for layer in group.layers}
    layers = tuple(
        _layer(
            network,
            op,
            stride=stride.get(op.name),
            block=block_of.get(op.name, ""),
            group=group_of.get(op.owner, ""),
            sqnr_db=_sensitivity(network, op) if measured is None else measured.sqnr_db.get(op.name),
        )
        for op in network.layers
    )
    return Inspection(
        schema=INSPECTION_SCHEMA,
        model=model,
        input_shape=next(op.shape for op in network.ops if op.kind == "input"),
        total=Totals(**asdict(total), activation_bytes=sum(layer.activation_bytes for layer in layers)),
        layers=layers,
        blocks=blocks,
        groups=grouping[0],
        uncut=grouping[1],
        ops=dict(sorted(Counter(op.kind for op in network.ops if op.kind != "input").items())),
        findings=_findings(network, blocks, measured, more),
        images=images,
    )


def _findings(
    network: Network, blocks: Sequence[BlockView], measured: Measured | None, more: Sequence[Finding]
) -> tuple[Finding, ...]:
    """Everything that will hurt, the worst first."""
    seen = Measured() if measured is None else measured
    found = (
        *more,
        *activations.broken_values(seen),
        *activations.fragile_layers(seen),
        *weights.dead_channels(network),
        *weights.vanished_variance(network),
        *activations.outliers(network, seen),
        *findings.odd_widths(network),
        *findings.narrow_groups(network),
        *findings.unfolded_norms(network),
        *weights.uneven_ranges(network),
        *activations.unequal_branches(network, seen, blocks),
        *findings.residual_adds(blocks),
        *findings.float_steps(network),
        *findings.shared_layers(network),
    )
    return tuple(sorted(found, key=lambda finding: WORST_FIRST.index(finding.severity)))


def _layer(
    network: Network, op: Op, *, stride: float | None, block: str, group: str, sqnr_db: float | None
) -> LayerView:
    assert op.cost is not None
    return LayerView(
        **vars(op.cost),
        kernel=op.kernel,
        groups=op.groups,
        stride=stride,
        activation_bytes=prod(op.shape) * (1 if _kept(network, op).int8 else 4),
        block=block,
        group=group,
        sqnr_db=None if sqnr_db is None or isnan(sqnr_db) else sqnr_db,
    )


def _sensitivity(network: Network, op: Op) -> float | None:
    """Of a layer's weights; what a file stores in INT8 already has lost what it had to lose."""
    stored = op.cost is not None and op.cost.weight_bits < cost.FLOAT_BITS and op.learned
    return None if stored else weights.weight_sqnr_db(network, op)


def _kept(network: Network, op: Op) -> Op:
    """The step whose value stands in memory for a layer's output: BatchNorm and ReLU run in the same kernel."""
    for kind in ("batch_norm", "relu"):
        behind = None if op.int8 else network.only_reader(op, kind)
        op = behind or op
    return op
