"""An inspection as tables for people: layers, blocks, dependency groups, and what will hurt."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from math import isfinite

from rescompress.cli.show import table
from rescompress.views import BlockView, GroupView, Inspection, LayerView

MOST = 4
"""Layers and facts of one row that a terminal shows; the JSON has them all."""


def show(found: Inspection) -> None:
    """Everything that fits a terminal, with totals and findings last, where one looks first."""
    _show_layers(found)
    _show_blocks(found.blocks)
    _show_groups(found.groups)
    _show_findings(found)
    total = found.total
    print(
        f"{found.model}: {total.params:,} parameters, {total.macs:,} MACs, {total.weight_bytes:,} bytes of weights, "
        f"{total.activation_bytes:,} bytes of activations"
    )


def _show_layers(found: Inspection) -> None:
    marks = {name for finding in found.findings if finding.severity != "note" for name in finding.layers}
    head = ("layer", "op", "output", "stride", "params", "MACs", "bits", "weight bytes", "activation bytes")
    rows = [[*_layer(layer), "!" if layer.layer in marks else ""] for layer in found.layers]
    table([*head, "output's dB" if found.images else "weights' dB", ""], rows)


def _layer(layer: LayerView) -> list[str]:
    sqnr = layer.sqnr_db
    return [
        layer.layer,
        f"{layer.op} {_sizes(layer.kernel)}".strip(),
        _sizes(layer.output_shape),
        "-" if layer.stride is None else f"{layer.stride:g}",
        f"{layer.params:,}",
        f"{layer.macs:,}",
        str(layer.weight_bits),
        f"{layer.weight_bytes:,}",
        f"{layer.activation_bytes:,}",
        "-" if sqnr is None else f"{sqnr:.1f}" if isfinite(sqnr) else "exact",
    ]


def _show_blocks(blocks: Sequence[BlockView]) -> None:
    """A row for each run of blocks that differ in name alone."""
    runs = [
        list(run) for _, run in groupby(blocks, key=lambda b: (b.kind, b.shortcut, b.stride, b.output_shape, b.macs))
    ]
    rows = [
        [
            run[0].name if len(run) == 1 else f"{run[0].name} to {run[-1].name}",
            str(len(run)),
            run[0].kind,
            run[0].shortcut,
            f"{run[0].stride:g}",
            _sizes(run[0].output_shape),
            f"{run[0].macs:,}",
        ]
        for run in runs
    ]
    if rows:
        table(["blocks", "number", "kind", "shortcut", "stride", "output", "MACs of each"], rows)


def _show_groups(groups: Sequence[GroupView]) -> None:
    """The groups of several layers; those of one are counted."""
    tied = [group for group in groups if len(group.layers) > 1]
    if tied:
        rows = [[g.name, str(g.channels * g.width), str(len(g.layers)), _some(g.layers)] for g in tied]
        table(["dependency group", "channels", "layers", "which lose the same channels"], rows)
    if alone := len(groups) - len(tied):
        sizes = "1 layer stands" if alone == 1 else f"{alone} layers stand"
        print(f"{sizes} alone: their channels leave without any other's.\n")


def _show_findings(found: Inspection) -> None:
    """Facts by kind with what to do about them."""
    for (severity, kind), group in groupby(found.findings, key=lambda finding: (finding.severity, finding.kind)):
        findings = list(group)
        print(f"{severity}: {kind}")
        for finding in findings[:MOST]:
            print(f"  {finding.fact}")
        if len(findings) > MOST:
            layers = Counter(name for finding in findings[MOST:] for name in finding.layers)
            print(f"  The same in {_some(list(layers))}.")
        print(f"  {findings[0].remedy}\n")


def _sizes(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more
